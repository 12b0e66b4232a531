// Max-plus attention with the tropical inner product in linear time: a state of D x D per key/value head.
//
//   M_t[c][d] = max(M_{t-1}[c][d], k_t[c] + v_t[d]),     y_t[d] = max_c (q_t[c] + M_t[c][d])
//
// Definition: recurrent.py beside this file. Columns d never meet, so that a task takes one pack of them. A winner is
// one number j D + c, the first token j and its first channel c that attain the maximum: the smallest such number.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "pack.h"

namespace {

constexpr int64_t kTokens = 32;   // tokens whose outputs stay in the first cache
constexpr int64_t kChannels = 4;  // rows of the state that stay in registers over them

template <typename T> using Place = std::remove_reference_t<decltype(Index<T>{}[0])>;

struct Recurrence {
  int64_t batch, heads, kv_heads, length, dim;
  int64_t groups() const { return heads / kv_heads; }
};

// What one task works on: pointers at its key/value head, columns from `column` on.
template <typename T> struct Columns {
  const T *q, *k, *v, *start;
  const int64_t* poison;  // per column, the first token whose NaN reaches it; -1 for one in the start, T if none
  T* out;
  int32_t* winners;
  T* last;
  int64_t column, lanes;
};

template <typename T> struct Room {
  std::vector<T> memory, values, best;
  std::vector<Place<T>> holder, where;
};

// Rows c .. c + Rows - 1 of the state over `count` tokens from `from`.
template <typename T, bool Track, int64_t Rows>
void recur_rows(const Recurrence& shape, const Columns<T>& at, int64_t c, int64_t from, int64_t count, Room<T>& room) {
  constexpr int64_t width = Pack<T>::width;
  const int64_t dim = shape.dim, groups = shape.groups();
  Value<T> memory[Rows];
  Index<T> holder[Rows];
  for (int64_t r = 0; r < Rows; ++r) {
    memory[r] = load(room.memory.data() + (c + r) * width);
    if (Track) holder[r] = *reinterpret_cast<const Index<T>*>(room.holder.data() + (c + r) * width);
  }
  for (int64_t t = 0; t < count; ++t) {
    const Value<T> value = load(room.values.data() + t * width);
    const T* key = at.k + (from + t) * dim + c;
    for (int64_t r = 0; r < Rows; ++r) {
      const Value<T> path = key[r] + value;
      if (Track) {
        const Index<T> here = Index<T>{} + static_cast<Place<T>>((from + t) * dim + c + r);
        holder[r] = path > memory[r] ? here : holder[r];
      }
      memory[r] = larger<T>(path, memory[r]);
    }
    for (int64_t g = 0; g < groups; ++g) {
      const T* query = at.q + (g * shape.length + from + t) * dim + c;
      T* to = room.best.data() + (t * groups + g) * width;
      Place<T>* which = room.where.data() + (t * groups + g) * width;
      Value<T> best = load(to);
      Index<T> where = Track ? *reinterpret_cast<const Index<T>*>(which) : Index<T>{};
      for (int64_t r = 0; r < Rows; ++r) {
        const Value<T> path = query[r] + memory[r];
        if (Track) {
          const auto wins = (path > best) | ((path == best) & (holder[r] < where));
          where = wins ? holder[r] : where;
        }
        best = larger<T>(path, best);
      }
      store(to, best);
      if (Track) *reinterpret_cast<Index<T>*>(which) = where;
    }
  }
  for (int64_t r = 0; r < Rows; ++r) {
    store(room.memory.data() + (c + r) * width, memory[r]);
    if (Track) *reinterpret_cast<Index<T>*>(room.holder.data() + (c + r) * width) = holder[r];
  }
}

template <typename T, bool Track>
void write_chunk(const Recurrence& shape, const Columns<T>& at, int64_t from, int64_t count, const Room<T>& room) {
  constexpr int64_t width = Pack<T>::width;
  const int64_t dim = shape.dim, groups = shape.groups();
  for (int64_t t = 0; t < count; ++t)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t row = (g * shape.length + from + t) * dim, to = row + at.column;
      const bool bad = has_nan(at.q + row, dim);
      for (int64_t lane = 0; lane < at.lanes; ++lane) {
        const bool poisoned = bad || at.poison[at.column + lane] <= from + t;
        const int64_t place = (t * groups + g) * width + lane;
        at.out[to + lane] = poisoned ? std::numeric_limits<T>::quiet_NaN() : room.best[place];
        if (Track) at.winners[to + lane] = poisoned ? 0 : static_cast<int32_t>(room.where[place]);
      }
    }
}

template <typename T, bool Track> void recur(const Recurrence& shape, const Columns<T>& at) {
  constexpr int64_t width = Pack<T>::width;
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  const int64_t dim = shape.dim, outputs = kTokens * shape.groups() * width;
  Room<T> room{std::vector<T>(dim * width, nothing), std::vector<T>(kTokens * width, T(0)), std::vector<T>(outputs),
               std::vector<Place<T>>(dim * width), std::vector<Place<T>>(outputs)};
  for (int64_t c = 0; c < dim; ++c) {
    std::copy_n(at.start + c * dim + at.column, at.lanes, room.memory.data() + c * width);
    std::fill_n(room.holder.data() + c * width, width, static_cast<Place<T>>(c - dim));  // before the first token
  }
  for (int64_t from = 0; from < shape.length; from += kTokens) {
    const int64_t count = std::min(kTokens, shape.length - from);
    for (int64_t t = 0; t < count; ++t)
      std::copy_n(at.v + (from + t) * dim + at.column, at.lanes, room.values.data() + t * width);
    std::fill(room.best.begin(), room.best.end(), nothing);
    std::fill(room.where.begin(), room.where.end(), std::numeric_limits<Place<T>>::max());
    int64_t c = 0;
    for (; c + kChannels <= dim; c += kChannels) recur_rows<T, Track, kChannels>(shape, at, c, from, count, room);
    for (; c < dim; ++c) recur_rows<T, Track, 1>(shape, at, c, from, count, room);
    write_chunk<T, Track>(shape, at, from, count, room);
  }
  for (int64_t c = 0; c < dim; ++c)
    for (int64_t lane = 0; lane < at.lanes; ++lane)
      at.last[c * dim + at.column + lane] = at.poison[at.column + lane] < shape.length
                                                ? std::numeric_limits<T>::quiet_NaN()
                                                : room.memory[c * width + lane];
}

// Per column of one key/value head: the first token from which on nothing but NaN can come out.
template <typename T> void find_poison(const Recurrence& shape, const T* k, const T* v, const T* start, int64_t* poison) {
  const int64_t dim = shape.dim;
  std::fill_n(poison, dim, shape.length);
  for (int64_t t = shape.length - 1; t >= 0; --t) {
    const bool bad = has_nan(k + t * dim, dim);
    if (!bad && !has_nan(v + t * dim, dim)) continue;
    for (int64_t d = 0; d < dim; ++d)
      if (bad || v[t * dim + d] != v[t * dim + d]) poison[d] = t;
  }
  for (int64_t c = 0; c < dim; ++c)
    for (int64_t d = 0; d < dim; ++d)
      if (start[c * dim + d] != start[c * dim + d]) poison[d] = -1;
}

Recurrence recurrence_of(const at::Tensor& q, int64_t kv_heads) {
  return {q.size(0), q.size(1), kv_heads, q.size(2), q.size(3)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> recurrence_forward(const at::Tensor& q, const at::Tensor& k,
                                                                  const at::Tensor& v, const at::Tensor& start,
                                                                  bool track) {
  const Recurrence shape = recurrence_of(q, k.size(1));
  const int64_t dim = shape.dim, rows = shape.batch * shape.kv_heads, per_head = shape.length * dim;
  at::Tensor out = at::empty_like(q), last = at::empty_like(start);
  at::Tensor winners = at::empty(track ? q.sizes() : at::IntArrayRef{0}, q.options().dtype(at::kInt));
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "mgr_maxplus::recurrence_forward", [&] {
    constexpr int64_t width = Pack<scalar_t>::width;
    const auto *query = q.const_data_ptr<scalar_t>(), *key = k.const_data_ptr<scalar_t>();
    const auto *value = v.const_data_ptr<scalar_t>(), *first = start.const_data_ptr<scalar_t>();
    auto *to = out.mutable_data_ptr<scalar_t>(), *end = last.mutable_data_ptr<scalar_t>();
    int32_t* which = winners.mutable_data_ptr<int32_t>();
    std::vector<int64_t> poison(rows * dim);
    at::parallel_for(0, rows, 1, [&](int64_t low, int64_t high) {
      for (int64_t h = low; h < high; ++h)
        find_poison(shape, key + h * per_head, value + h * per_head, first + h * dim * dim, poison.data() + h * dim);
    });
    const int64_t packs = (dim + width - 1) / width;
    at::parallel_for(0, rows * packs, 1, [&](int64_t low, int64_t high) {
      for (int64_t task = low; task < high; ++task) {
        const int64_t h = task / packs, column = task % packs * width, queries = h * shape.groups() * per_head;
        const Columns<scalar_t> at{query + queries, key + h * per_head, value + h * per_head, first + h * dim * dim,
                                   poison.data() + h * dim, to + queries, track ? which + queries : nullptr,
                                   end + h * dim * dim, column, std::min(width, dim - column)};
        (track ? recur<scalar_t, true> : recur<scalar_t, false>)(shape, at);
      }
    });
  });
  return {out, winners, last};
}

// Each output's gradient goes to the three numbers whose sum won; to the query alone where a start won.
std::tuple<at::Tensor, at::Tensor, at::Tensor> recurrence_backward(const at::Tensor& gradient,
                                                                   const at::Tensor& winners, int64_t kv_heads) {
  const Recurrence shape = recurrence_of(gradient, kv_heads);
  at::Tensor dq = at::zeros_like(gradient);
  at::Tensor dk = at::zeros({shape.batch, kv_heads, shape.length, shape.dim}, gradient.options());
  at::Tensor dv = at::zeros_like(dk);
  AT_DISPATCH_FLOATING_TYPES(gradient.scalar_type(), "mgr_maxplus::recurrence_backward", [&] {
    const auto* g = gradient.const_data_ptr<scalar_t>();
    const int32_t* which = winners.const_data_ptr<int32_t>();
    auto *to_q = dq.mutable_data_ptr<scalar_t>(), *to_k = dk.mutable_data_ptr<scalar_t>();
    auto* to_v = dv.mutable_data_ptr<scalar_t>();
    const int32_t dim = static_cast<int32_t>(shape.dim);
    const int64_t rows = shape.groups() * shape.length, per_head = shape.length * shape.dim;
    at::parallel_for(0, shape.batch * kv_heads, 1, [&](int64_t low, int64_t high) {
      for (int64_t h = low; h < high; ++h)
        for (int64_t row = h * rows; row < (h + 1) * rows; ++row)
          for (int32_t d = 0; d < dim; ++d) {
            const int32_t place = which[row * dim + d], channel = place < 0 ? place + dim : place % dim;
            const scalar_t part = g[row * dim + d];
            to_q[row * dim + channel] += part;
            if (place < 0) continue;
            to_k[h * per_head + place] += part;
            to_v[h * per_head + place - channel + d] += part;
          }
    });
  });
  return {dq, dk, dv};
}

}  // namespace

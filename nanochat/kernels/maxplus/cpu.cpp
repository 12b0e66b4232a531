// Max-plus kernels for the CPU: tropical attention and the tropical matrix product, forward with winners and backward.
//
// Definition: naive.py beside this file. Ties go to the first index, a NaN is never lost. The form that is linear
// in T stands in recurrent.h.
//
// Names: D channels, S keys, rows = queries handled together, pack = one vector register's worth of scalars.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "pack.h"
#include "recurrent.h"

namespace {

constexpr int64_t kRows = 4;    // queries handled together: enough independent chains to hide latency
constexpr int64_t kUnroll = 2;  // packs per row: 4 x 2 x (maximum, minimum) fit the 32 registers of AVX-512

// Scores of `Rows` queries against keys 0 .. count-1, key-major: keys[d * stride + j]. Writes whole packs.
template <typename T, bool Hilbert, int64_t Rows>
void score_rows(const T* query, const T* keys, int64_t stride, int64_t dim, int64_t count, T* out, int64_t out_stride) {
  constexpr int64_t width = Pack<T>::width;
  for (int64_t j = 0; j < count; j += kUnroll * width) {
    Value<T> high[Rows][kUnroll], low[Rows][kUnroll];
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t u = 0; u < kUnroll; ++u) {
        const Value<T> key = load(keys + d * stride + j + u * width);
        for (int64_t r = 0; r < Rows; ++r) {
          const Value<T> term = Hilbert ? query[r * dim + d] - key : query[r * dim + d] + key;
          high[r][u] = d == 0 ? term : larger<T>(term, high[r][u]);
          if (Hilbert) low[r][u] = d == 0 ? term : smaller<T>(term, low[r][u]);
        }
      }
    }
    for (int64_t r = 0; r < Rows; ++r)
      for (int64_t u = 0; u < kUnroll; ++u)
        store(out + r * out_stride + j + u * width, Hilbert ? low[r][u] - high[r][u] : high[r][u]);
  }
}

// best[r][d] = max over j < count of scores[r][j] + values[j][d], with the first j that attains it.
template <typename T, int64_t Rows, int64_t Packs>
void aggregate_packs(const T* scores, int64_t score_stride, const T* values, int64_t value_stride, int64_t count,
                     T* best_out, int32_t* index_out, int64_t out_stride) {
  constexpr int64_t width = Pack<T>::width;
  Value<T> best[Rows][Packs];
  Index<T> index[Rows][Packs];
  for (int64_t r = 0; r < Rows; ++r)
    for (int64_t u = 0; u < Packs; ++u) {
      best[r][u] = scores[r * score_stride] + load(values + u * width);
      index[r][u] = Index<T>{};
    }
  for (int64_t j = 1; j < count; ++j) {
    for (int64_t u = 0; u < Packs; ++u) {
      const Value<T> value = load(values + j * value_stride + u * width);
      const Index<T> here = Index<T>{} + static_cast<std::remove_reference_t<decltype(Index<T>{}[0])>>(j);
      for (int64_t r = 0; r < Rows; ++r) {
        const Value<T> candidate = scores[r * score_stride + j] + value;
        index[r][u] = candidate > best[r][u] ? here : index[r][u];
        best[r][u] = larger<T>(candidate, best[r][u]);
      }
    }
  }
  for (int64_t r = 0; r < Rows; ++r)
    for (int64_t u = 0; u < Packs; ++u) {
      store(best_out + r * out_stride + u * width, best[r][u]);
      for (int64_t lane = 0; lane < width; ++lane)
        index_out[r * out_stride + u * width + lane] = static_cast<int32_t>(index[r][u][lane]);
    }
}

// All channels of `Rows` rows; values and outputs are padded to whole packs.
template <typename T, int64_t Rows>
void aggregate_rows(const T* scores, int64_t score_stride, const T* values, int64_t columns, int64_t count, T* best,
                    int32_t* index) {
  constexpr int64_t width = Pack<T>::width;
  int64_t c = 0;
  for (; c + kUnroll * width <= columns; c += kUnroll * width)
    aggregate_packs<T, Rows, kUnroll>(scores, score_stride, values + c, columns, count, best + c, index + c, columns);
  for (; c < columns; c += width)
    aggregate_packs<T, Rows, 1>(scores, score_stride, values + c, columns, count, best + c, index + c, columns);
}

// One key/value head, laid out for the forward pass.
template <typename T> struct Head {
  std::vector<T> keys;          // (D, padded S)
  std::vector<T> values;        // (S, padded D)
  std::vector<int64_t> poison;  // per channel, the first key whose NaN reaches it; S if none

  void fill(const T* k, const T* v, int64_t length, int64_t dim) {
    const int64_t stride = padded<T>(length, kUnroll), columns = padded<T>(dim, 1);
    keys.assign(dim * stride, T(0));
    values.assign(length * columns, T(0));
    poison.assign(dim, length);
    for (int64_t j = 0; j < length; ++j) {
      for (int64_t d = 0; d < dim; ++d) keys[d * stride + j] = k[j * dim + d];
      std::copy_n(v + j * dim, dim, values.data() + j * columns);
      const bool bad = has_nan(k + j * dim, dim);
      if (bad || has_nan(v + j * dim, dim))
        for (int64_t d = 0; d < dim; ++d)
          if (bad || v[j * dim + d] != v[j * dim + d]) poison[d] = std::min(poison[d], j);
    }
  }
};

struct Shape {
  int64_t batch, heads, kv_heads, queries, keys, dim;
  int64_t groups() const { return heads / kv_heads; }
};

Shape shape_of(const at::Tensor& q, const at::Tensor& k) {
  return {q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3)};
}

template <typename T> struct Scratch {
  std::vector<T> scores, best;
  std::vector<int32_t> index;
};

// Rows `row` .. `row + Rows - 1` of one query head, pointers at its first row.
template <typename T, bool Hilbert, int64_t Rows>
void attend_rows(const Shape& shape, const Head<T>& head, const T* q, int64_t row, T* out, int32_t* winners,
                 Scratch<T>& scratch) {
  const int64_t dim = shape.dim, stride = padded<T>(shape.keys, kUnroll), columns = padded<T>(dim, 1);
  const int64_t first = shape.keys - shape.queries + row, count = first + Rows;
  scratch.scores.resize(Rows * stride);
  scratch.best.resize(Rows * columns);
  scratch.index.resize(Rows * columns);
  score_rows<T, Hilbert, Rows>(q + row * dim, head.keys.data(), stride, dim, count, scratch.scores.data(), stride);
  for (int64_t r = 0; r < Rows; ++r)
    for (int64_t j = first + r + 1; j < count; ++j)
      scratch.scores[r * stride + j] = -std::numeric_limits<T>::infinity();
  aggregate_rows<T, Rows>(scratch.scores.data(), stride, head.values.data(), columns, count, scratch.best.data(),
                          scratch.index.data());
  for (int64_t r = 0; r < Rows; ++r) {
    const bool bad = has_nan(q + (row + r) * dim, dim);
    for (int64_t d = 0; d < dim; ++d) {
      const bool poisoned = bad || head.poison[d] <= first + r;
      out[(row + r) * dim + d] = poisoned ? std::numeric_limits<T>::quiet_NaN() : scratch.best[r * columns + d];
      winners[(row + r) * dim + d] =
          bad ? 0 : poisoned ? static_cast<int32_t>(head.poison[d]) : scratch.index[r * columns + d];
    }
  }
}

template <typename T, bool Hilbert>
void forward_typed(const Shape& shape, const T* q, const T* k, const T* v, T* out, int32_t* winners) {
  std::vector<Head<T>> heads(shape.batch * shape.kv_heads);
  at::parallel_for(0, static_cast<int64_t>(heads.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h)
      heads[h].fill(k + h * shape.keys * shape.dim, v + h * shape.keys * shape.dim, shape.keys, shape.dim);
  });
  const int64_t blocks = (shape.queries + kRows - 1) / kRows, total = shape.batch * shape.heads * blocks;
  at::parallel_for(0, total, 4, [&](int64_t begin, int64_t end) {
    Scratch<T> scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / blocks, row = task % blocks * kRows, at = head * shape.queries * shape.dim;
      const Head<T>& source = heads[head / shape.groups()];
      if (row + kRows <= shape.queries) {
        attend_rows<T, Hilbert, kRows>(shape, source, q + at, row, out + at, winners + at, scratch);
      } else {
        for (int64_t r = row; r < shape.queries; ++r)
          attend_rows<T, Hilbert, 1>(shape, source, q + at, r, out + at, winners + at, scratch);
      }
    }
  });
}

// The pack with its lanes rotated by `by`.
template <int by> inline Value<float> rotate(Value<float> x) {
  return __builtin_shufflevector(x, x, by, by + 1, by + 2, by + 3, by + 4, by + 5, by + 6, by + 7, by + 8, by + 9, by + 10,
                                 by + 11, by + 12, by + 13, by + 14, by + 15);
}

template <int by> inline Value<double> rotate(Value<double> x) {
  return __builtin_shufflevector(x, x, by, by + 1, by + 2, by + 3, by + 4, by + 5, by + 6, by + 7);
}

// Every lane gets the largest (smallest) of all lanes.
template <typename T, bool Largest> inline Value<T> spread(Value<T> x) {
  const auto pick = [](Value<T> a, Value<T> b) { return Largest ? larger<T>(a, b) : smaller<T>(a, b); };
  if constexpr (Pack<T>::width == 16) x = pick(x, rotate<8>(x));
  x = pick(x, rotate<4>(x));
  x = pick(x, rotate<2>(x));
  return pick(x, rotate<1>(x));
}

// Rows padded to whole packs by repeating channel 0: a copy at the end is never the first of equals.
template <typename T> void pad_rows(const T* from, int64_t rows, int64_t dim, T* to) {
  const int64_t whole = padded<T>(dim, 1);
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(from + row * dim, dim, to + row * whole);
    std::fill(to + row * whole + dim, to + (row + 1) * whole, from[row * dim]);
  }
}

// First channels with the largest and the smallest term of two padded rows. Channel numbers ride in lanes of T, which
// holds them exactly; in a row of NaN nothing equals anything, and channel 0 is as good as any.
template <typename T, bool Hilbert>
std::pair<int64_t, int64_t> extremes(const T* q, const T* k, int64_t whole, Value<T> lanes) {
  constexpr int64_t width = Pack<T>::width;
  const auto term = [&](int64_t d) { return Hilbert ? load(q + d) - load(k + d) : load(q + d) + load(k + d); };
  Value<T> high = term(0), low = high;
  for (int64_t d = width; d < whole; d += width) {
    high = larger<T>(term(d), high);
    if (Hilbert) low = smaller<T>(term(d), low);
  }
  high = spread<T, true>(high);
  if (Hilbert) low = spread<T, false>(low);
  const Value<T> none = Value<T>{} + static_cast<T>(whole);
  Value<T> first = none, last = none;
  for (int64_t d = 0; d < whole; d += width) {
    const Value<T> channel = lanes + static_cast<T>(d);
    first = smaller<T>(term(d) == high ? channel : none, first);
    if (Hilbert) last = smaller<T>(term(d) == low ? channel : none, last);
  }
  const int64_t top = static_cast<int64_t>(spread<T, false>(first)[0]);
  const int64_t bottom = Hilbert ? static_cast<int64_t>(spread<T, false>(last)[0]) : 0;
  return {top < whole ? top : 0, bottom < whole ? bottom : 0};
}

template <typename T> struct Gradients {
  T *q, *k, *v;
};

// Gradients of one key/value head and its query heads: sequential, hence the same bits for any number of threads.
template <typename T, bool Hilbert>
void backward_head(const Shape& shape, int64_t kv_head, const T* gradient, const T* q, const T* k,
                   const int32_t* winners, Gradients<T> d) {
  const int64_t dim = shape.dim, at = kv_head * shape.keys * dim, rows = shape.groups() * shape.queries;
  const int64_t whole = padded<T>(dim, 1);
  std::vector<T> ds(shape.keys, T(0)), query(whole), keys(shape.keys * whole);
  std::vector<char> seen(shape.keys, 0);
  std::vector<int32_t> touched;
  Value<T> lanes;
  for (int64_t lane = 0; lane < Pack<T>::width; ++lane) lanes[lane] = static_cast<T>(lane);
  pad_rows(k + at, shape.keys, dim, keys.data());
  d.k += at, d.v += at;
  for (int64_t row = kv_head * rows; row < (kv_head + 1) * rows; ++row) {
    touched.clear();
    pad_rows(q + row * dim, 1, dim, query.data());
    for (int64_t c = 0; c < dim; ++c) {
      const int32_t j = winners[row * dim + c];
      const T g = gradient[row * dim + c];
      d.v[j * dim + c] += g;
      ds[j] += g;
      if (!seen[j]) seen[j] = 1, touched.push_back(j);
    }
    for (const int32_t j : touched) {
      const T g = ds[j];
      ds[j] = 0, seen[j] = 0;
      if (g == T(0)) continue;
      const auto [high, low] = extremes<T, Hilbert>(query.data(), keys.data() + j * whole, whole, lanes);
      if (Hilbert) {
        d.q[row * dim + high] -= g, d.k[j * dim + high] += g;
        d.q[row * dim + low] += g, d.k[j * dim + low] -= g;
      } else {
        d.q[row * dim + high] += g, d.k[j * dim + high] += g;
      }
    }
  }
}

template <typename T> void matmul_typed(const at::Tensor& a, const at::Tensor& b, at::Tensor& out, at::Tensor& winners) {
  const int64_t rows = a.size(1), inner = a.size(2), columns = b.size(2), wide = padded<T>(columns, 1);
  const at::Tensor factor = wide == columns ? b : at::constant_pad_nd(b, {0, wide - columns});
  const T *left = a.const_data_ptr<T>(), *right = factor.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  int32_t* index = winners.mutable_data_ptr<int32_t>();
  const int64_t blocks = (rows + kRows - 1) / kRows;
  at::parallel_for(0, a.size(0) * blocks, 4, [&](int64_t begin, int64_t end) {
    std::vector<T> best(kRows * wide);
    std::vector<int32_t> which(kRows * wide);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t batch = task / blocks, row = task % blocks * kRows, here = std::min(kRows, rows - row);
      const T *from = left + (batch * rows + row) * inner, *with = right + batch * inner * wide;
      if (here == kRows) {
        aggregate_rows<T, kRows>(from, inner, with, wide, inner, best.data(), which.data());
      } else {
        for (int64_t r = 0; r < here; ++r)
          aggregate_rows<T, 1>(from + r * inner, inner, with, wide, inner, best.data() + r * wide,
                               which.data() + r * wide);
      }
      for (int64_t r = 0; r < here; ++r) {
        std::copy_n(best.data() + r * wide, columns, to + (batch * rows + row + r) * columns);
        std::copy_n(which.data() + r * wide, columns, index + (batch * rows + row + r) * columns);
      }
    }
  });
}

std::tuple<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                     bool hilbert) {
  const Shape shape = shape_of(q, k);
  at::Tensor out = at::empty_like(q), winners = at::empty(q.sizes(), q.options().dtype(at::kInt));
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "mgr_maxplus::attention_forward", [&] {
    (hilbert ? forward_typed<scalar_t, true> : forward_typed<scalar_t, false>)(
        shape, q.const_data_ptr<scalar_t>(), k.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(),
        out.mutable_data_ptr<scalar_t>(), winners.mutable_data_ptr<int32_t>());
  });
  return {out, winners};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& gradient, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const at::Tensor& winners, bool hilbert) {
  const Shape shape = shape_of(q, k);
  at::Tensor dq = at::zeros_like(q), dk = at::zeros_like(k), dv = at::zeros_like(v);
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "mgr_maxplus::attention_backward", [&] {
    const Gradients<scalar_t> d{dq.mutable_data_ptr<scalar_t>(), dk.mutable_data_ptr<scalar_t>(),
                                dv.mutable_data_ptr<scalar_t>()};
    const auto one = hilbert ? backward_head<scalar_t, true> : backward_head<scalar_t, false>;
    at::parallel_for(0, shape.batch * shape.kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; ++head)
        one(shape, head, gradient.const_data_ptr<scalar_t>(), q.const_data_ptr<scalar_t>(),
            k.const_data_ptr<scalar_t>(), winners.const_data_ptr<int32_t>(), d);
    });
  });
  return {dq, dk, dv};
}

std::tuple<at::Tensor, at::Tensor> matmul_forward(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = at::empty({a.size(0), a.size(1), b.size(2)}, a.options());
  at::Tensor winners = at::empty(out.sizes(), a.options().dtype(at::kInt));
  AT_DISPATCH_FLOATING_TYPES(a.scalar_type(), "mgr_maxplus::matmul_forward",
                             [&] { matmul_typed<scalar_t>(a, b, out, winners); });
  return {out, winners};
}

}  // namespace

TORCH_LIBRARY(mgr_maxplus, library) {
  library.def("attention_forward(Tensor q, Tensor k, Tensor v, bool hilbert) -> (Tensor, Tensor)");
  library.def(
      "attention_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor winners, bool hilbert)"
      " -> (Tensor, Tensor, Tensor)");
  library.def("matmul_forward(Tensor a, Tensor b) -> (Tensor, Tensor)");
  library.def(
      "recurrence_forward(Tensor q, Tensor k, Tensor v, Tensor start, bool track) -> (Tensor, Tensor, Tensor)");
  library.def("recurrence_backward(Tensor gradient, Tensor winners, int kv_heads) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mgr_maxplus, CPU, library) {
  library.impl("attention_forward", &attention_forward);
  library.impl("attention_backward", &attention_backward);
  library.impl("matmul_forward", &matmul_forward);
  library.impl("recurrence_forward", &recurrence_forward);
  library.impl("recurrence_backward", &recurrence_backward);
}

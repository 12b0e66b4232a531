// Prefix products of unit quaternions and the turn of channel blocks for the CPU, forward and backward.
//
// Definition: naive.py beside this file. Quaternions are structures of arrays, component before lane, so that the inner
// loops over lanes are plain and the compiler vectorises them. Gradients are closed forms, see chunked.py.
//
// Names: rows = batch times frame heads, L lanes, n blocks of a head, D channels, share = heads that follow one frame.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

namespace {

enum Group : int64_t { kSo3 = 0, kU1 = 1, kSo4 = 2 };

template <typename T> struct Quaternion {
  T w, x, y, z;
};

template <typename T> inline Quaternion<T> operator*(const Quaternion<T>& a, const Quaternion<T>& b) {
  return {a.w * b.w - a.x * b.x - a.y * b.y - a.z * b.z, a.w * b.x + a.x * b.w + a.y * b.z - a.z * b.y,
          a.w * b.y - a.x * b.z + a.y * b.w + a.z * b.x, a.w * b.z + a.x * b.y - a.y * b.x + a.z * b.w};
}

template <typename T> inline Quaternion<T> operator+(const Quaternion<T>& a, const Quaternion<T>& b) {
  return {a.w + b.w, a.x + b.x, a.y + b.y, a.z + b.z};
}

template <typename T> inline Quaternion<T> conjugate(const Quaternion<T>& a) { return {a.w, -a.x, -a.y, -a.z}; }

template <typename T> inline Quaternion<T> scaled(const Quaternion<T>& a, T by) {
  return {a.w * by, a.x * by, a.y * by, a.z * by};
}

template <typename T> inline T dot(const Quaternion<T>& a, const Quaternion<T>& b) {
  return a.w * b.w + a.x * b.x + a.y * b.y + a.z * b.z;
}

template <typename T> inline Quaternion<T> load(const T* from, int64_t lanes, int64_t i) {
  return {from[i], from[lanes + i], from[2 * lanes + i], from[3 * lanes + i]};
}

template <typename T> inline void store(T* to, int64_t lanes, int64_t i, const Quaternion<T>& a) {
  to[i] = a.w;
  to[lanes + i] = a.x;
  to[2 * lanes + i] = a.y;
  to[3 * lanes + i] = a.z;
}

constexpr double kTiny = 1e-30;  // naive.TINY

// 1 / |a|, or 0 where a has no direction.
template <typename T> inline T inverse_length(const Quaternion<T>& a) {
  const T square = dot(a, a);
  return square > T(kTiny) ? T(1) / std::sqrt(square) : T(0);
}

template <typename T> inline Quaternion<T> unit(const Quaternion<T>& raw) {
  const T by = inverse_length(raw);
  const Quaternion<T> directed = scaled(raw, by);
  return {by > T(0) ? directed.w : T(1), directed.x, directed.y, directed.z};
}

template <typename T>
void prefix_row(const T* __restrict raw, const T* start, T* __restrict frames, int64_t length, int64_t lanes) {
  const T* last = start;
  for (int64_t t = 0; t < length; ++t, raw += 4 * lanes) {
    T* now = frames + t * 4 * lanes;
#pragma GCC ivdep
    for (int64_t i = 0; i < lanes; ++i) store(now, lanes, i, load(last, lanes, i) * unit(load(raw, lanes, i)));
    last = now;
  }
}

template <typename T>
void prefix_row_backward(const T* gradient, const T* raw, const T* frames, const T* start, T* __restrict out,
                         int64_t length, int64_t lanes) {
  std::vector<T> room(4 * lanes, T(0));
  T* __restrict ahead = room.data();
  const int64_t step = 4 * lanes;
  for (int64_t t = length - 1; t >= 0; --t) {
    const T* before = t ? frames + (t - 1) * step : start;
#pragma GCC ivdep
    for (int64_t i = 0; i < lanes; ++i) {
      const Quaternion<T> frame = load(frames + t * step, lanes, i);
      const Quaternion<T> sum = load(ahead, lanes, i) + load(gradient + t * step, lanes, i) * conjugate(frame);
      store(ahead, lanes, i, sum);
      const Quaternion<T> of_unit = conjugate(load(before, lanes, i)) * sum * frame;
      const Quaternion<T> given = load(raw + t * step, lanes, i);
      const T by = inverse_length(given);
      const Quaternion<T> direction = scaled(given, by);
      store(out + t * step, lanes, i, scaled(of_unit + scaled(direction, -dot(direction, of_unit)), by));
    }
  }
}

// Blocks of 3 or 4 channels as quaternions; the inverse turn conjugates the frame on the way in and its gradient on
// the way out.
template <typename T, int64_t Kind> inline Quaternion<T> block(const T* x, int64_t n, int64_t i) {
  if constexpr (Kind == kSo3) return {T(0), x[i], x[n + i], x[2 * n + i]};
  else return load(x, n, i);
}

template <typename T, int64_t Kind> inline void store_block(T* to, int64_t n, int64_t i, const Quaternion<T>& a) {
  if constexpr (Kind == kSo3) {
    to[i] = a.x;
    to[n + i] = a.y;
    to[2 * n + i] = a.z;
  } else {
    store(to, n, i, a);
  }
}

template <typename T, bool Inverse> inline Quaternion<T> acting(const T* frame, int64_t lanes, int64_t i) {
  const Quaternion<T> found = load(frame, lanes, i);
  if constexpr (Inverse) return conjugate(found);
  else return found;
}

template <typename T, int64_t Kind, bool Inverse>
void turn_token(const T* __restrict frame, const T* __restrict x, T* __restrict out, int64_t n) {
  if constexpr (Kind == kU1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T cosine = frame[i], sine = Inverse ? -frame[n + i] : frame[n + i];
      out[i] = x[i] * cosine - x[n + i] * sine;
      out[n + i] = x[i] * sine + x[n + i] * cosine;
    }
  } else {
    const int64_t lanes = Kind == kSo4 ? 2 * n : n, right = Kind == kSo4 ? n : 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const Quaternion<T> l = acting<T, Inverse>(frame, lanes, i), r = acting<T, Inverse>(frame, lanes, right + i);
      store_block<T, Kind>(out, n, i, l * block<T, Kind>(x, n, i) * conjugate(r));
    }
  }
}

// Adds to the gradient of the frame, writes that of x.
template <typename T, int64_t Kind, bool Inverse>
void turn_token_backward(const T* __restrict g, const T* __restrict frame, const T* __restrict x,
                         T* __restrict of_frame, T* __restrict of_x, int64_t n) {
  if constexpr (Kind == kU1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T cosine = frame[i], sine = Inverse ? -frame[n + i] : frame[n + i];
      const T of_sine = g[n + i] * x[i] - g[i] * x[n + i];
      of_frame[i] += g[i] * x[i] + g[n + i] * x[n + i];
      of_frame[n + i] += Inverse ? -of_sine : of_sine;
      of_x[i] = g[i] * cosine + g[n + i] * sine;
      of_x[n + i] = g[n + i] * cosine - g[i] * sine;
    }
  } else {
    const int64_t lanes = Kind == kSo4 ? 2 * n : n, right = Kind == kSo4 ? n : 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const Quaternion<T> l = acting<T, Inverse>(frame, lanes, i), r = acting<T, Inverse>(frame, lanes, right + i);
      const Quaternion<T> given = block<T, Kind>(x, n, i), gradient = block<T, Kind>(g, n, i);
      const Quaternion<T> pulled = gradient * r;
      Quaternion<T> of_left = pulled * conjugate(given), of_right = conjugate(gradient) * (l * given);
      if constexpr (Inverse) of_left = conjugate(of_left), of_right = conjugate(of_right);
      if constexpr (Kind == kSo4) {
        store(of_frame, lanes, i, load(of_frame, lanes, i) + of_left);
        store(of_frame, lanes, right + i, load(of_frame, lanes, right + i) + of_right);
      } else {
        store(of_frame, lanes, i, load(of_frame, lanes, i) + (of_left + of_right));
      }
      store_block<T, Kind>(of_x, n, i, conjugate(l) * pulled);
    }
  }
}

// Calls `body` with the group and the direction as constants.
template <typename Body> void dispatch(int64_t group, bool inverse, Body body) {
  auto directed = [&](auto kind) {
    if (inverse) body(kind, std::true_type{});
    else body(kind, std::false_type{});
  };
  if (group == kSo3) directed(std::integral_constant<int64_t, kSo3>{});
  else if (group == kU1) directed(std::integral_constant<int64_t, kU1>{});
  else directed(std::integral_constant<int64_t, kSo4>{});
}

struct Shape {
  int64_t rows, length, components, lanes, share, dim, blocks, size;
  Shape(const at::Tensor& frame, const at::Tensor& x, int64_t group)
      : rows(frame.size(0) * frame.size(1)), length(frame.size(2)), components(frame.size(3)), lanes(frame.size(4)),
        share(x.size(1) / frame.size(1)), dim(x.size(3)), blocks(group == kSo4 ? lanes / 2 : lanes),
        size(group == kSo3 ? 3 : group == kU1 ? 2 : 4) {}
  int64_t frame_at(int64_t row, int64_t t) const { return (row * length + t) * components * lanes; }
  int64_t x_at(int64_t row, int64_t head, int64_t t) const { return ((row * share + head) * length + t) * dim; }
};

constexpr int64_t kTokens = 64;  // tokens of a row that one task takes

at::Tensor prefix_forward(const at::Tensor& raw, const at::Tensor& start) {
  at::Tensor out = at::empty(raw.sizes(), raw.options());
  const int64_t rows = raw.size(0) * raw.size(1), length = raw.size(2), lanes = raw.size(4), step = 4 * lanes;
  AT_DISPATCH_FLOATING_TYPES(raw.scalar_type(), "mgr_scan::prefix_forward", [&] {
    const auto* from = raw.const_data_ptr<scalar_t>();
    const auto* first = start.const_data_ptr<scalar_t>();
    auto* to = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        prefix_row(from + row * length * step, first + row * step, to + row * length * step, length, lanes);
    });
  });
  return out;
}

at::Tensor prefix_backward(const at::Tensor& gradient, const at::Tensor& raw, const at::Tensor& frames,
                           const at::Tensor& start) {
  at::Tensor out = at::empty(raw.sizes(), raw.options());
  const int64_t rows = raw.size(0) * raw.size(1), length = raw.size(2), lanes = raw.size(4), step = 4 * lanes;
  AT_DISPATCH_FLOATING_TYPES(raw.scalar_type(), "mgr_scan::prefix_backward", [&] {
    const auto *g = gradient.const_data_ptr<scalar_t>(), *from = raw.const_data_ptr<scalar_t>();
    const auto *frame = frames.const_data_ptr<scalar_t>(), *first = start.const_data_ptr<scalar_t>();
    auto* to = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = row * length * step;
        prefix_row_backward(g + at, from + at, frame + at, first + row * step, to + at, length, lanes);
      }
    });
  });
  return out;
}

at::Tensor turn_forward(const at::Tensor& frame, const at::Tensor& x, int64_t group, bool inverse) {
  at::Tensor out = at::empty(x.sizes(), x.options());
  const Shape shape(frame, x, group);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mgr_scan::turn_forward", [&] {
    const auto *frames = frame.const_data_ptr<scalar_t>(), *from = x.const_data_ptr<scalar_t>();
    auto* to = out.mutable_data_ptr<scalar_t>();
    dispatch(group, inverse, [&](auto kind, auto direction) {
      at::parallel_for(0, shape.rows * shape.length, kTokens, [&](int64_t begin, int64_t end) {
        for (int64_t place = begin; place < end; ++place) {
          const int64_t row = place / shape.length, t = place % shape.length;
          for (int64_t head = 0; head < shape.share; ++head) {
            const int64_t at = shape.x_at(row, head, t);
            turn_token<scalar_t, decltype(kind)::value, decltype(direction)::value>(
                frames + shape.frame_at(row, t), from + at, to + at, shape.blocks);
            const int64_t moved = shape.blocks * shape.size;
            std::copy(from + at + moved, from + at + shape.dim, to + at + moved);
          }
        }
      });
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> turn_backward(const at::Tensor& gradient, const at::Tensor& frame,
                                                 const at::Tensor& x, int64_t group, bool inverse) {
  at::Tensor of_frame = at::zeros(frame.sizes(), frame.options()), of_x = at::empty(x.sizes(), x.options());
  const Shape shape(frame, x, group);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "mgr_scan::turn_backward", [&] {
    const auto *g = gradient.const_data_ptr<scalar_t>(), *frames = frame.const_data_ptr<scalar_t>();
    const auto* from = x.const_data_ptr<scalar_t>();
    auto *to_frame = of_frame.mutable_data_ptr<scalar_t>(), *to = of_x.mutable_data_ptr<scalar_t>();
    dispatch(group, inverse, [&](auto kind, auto direction) {
      at::parallel_for(0, shape.rows * shape.length, kTokens, [&](int64_t begin, int64_t end) {
        for (int64_t place = begin; place < end; ++place) {
          const int64_t row = place / shape.length, t = place % shape.length, where = shape.frame_at(row, t);
          for (int64_t head = 0; head < shape.share; ++head) {
            const int64_t at = shape.x_at(row, head, t);
            turn_token_backward<scalar_t, decltype(kind)::value, decltype(direction)::value>(
                g + at, frames + where, from + at, to_frame + where, to + at, shape.blocks);
            const int64_t moved = shape.blocks * shape.size;
            std::copy(g + at + moved, g + at + shape.dim, to + at + moved);
          }
        }
      });
    });
  });
  return {of_frame, of_x};
}

}  // namespace

TORCH_LIBRARY(mgr_scan, library) {
  library.def("prefix_forward(Tensor raw, Tensor start) -> Tensor");
  library.def("prefix_backward(Tensor gradient, Tensor raw, Tensor frames, Tensor start) -> Tensor");
  library.def("turn_forward(Tensor frame, Tensor x, int group, bool inverse) -> Tensor");
  library.def(
      "turn_backward(Tensor gradient, Tensor frame, Tensor x, int group, bool inverse) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mgr_scan, CPU, library) {
  library.impl("prefix_forward", &prefix_forward);
  library.impl("prefix_backward", &prefix_backward);
  library.impl("turn_forward", &turn_forward);
  library.impl("turn_backward", &turn_backward);
}

// Vector registers of the compiler's own kind (GCC, Clang): the same source serves SSE, AVX-512 and NEON.

#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace {

template <typename T> struct Pack;

template <> struct Pack<float> {
  typedef float Value __attribute__((vector_size(64), aligned(4)));
  typedef int32_t Index __attribute__((vector_size(64), aligned(4)));
  static constexpr int64_t width = 16;
};

template <> struct Pack<double> {
  typedef double Value __attribute__((vector_size(64), aligned(8)));
  typedef int64_t Index __attribute__((vector_size(64), aligned(8)));
  static constexpr int64_t width = 8;
};

template <typename T> using Value = typename Pack<T>::Value;
template <typename T> using Index = typename Pack<T>::Index;

template <typename T> int64_t padded(int64_t size, int64_t packs) {
  const int64_t step = packs * Pack<T>::width;
  return (size + step - 1) / step * step;
}

template <typename T> inline Value<T> load(const T* from) { return *reinterpret_cast<const Value<T>*>(from); }

template <typename T> inline void store(T* to, Value<T> value) { *reinterpret_cast<Value<T>*>(to) = value; }

template <typename T> inline Value<T> larger(Value<T> a, Value<T> b) { return a > b ? a : b; }

template <typename T> inline Value<T> smaller(Value<T> a, Value<T> b) { return a < b ? a : b; }

template <typename T> bool has_nan(const T* row, int64_t size) {
  bool found = false;
  for (int64_t d = 0; d < size; ++d) found |= row[d] != row[d];
  return found;
}

}  // namespace

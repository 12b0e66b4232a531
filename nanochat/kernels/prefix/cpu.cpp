// Ball sums for the CPU: one pass forwards in time per stream of keys, one running sum per ball; backward two passes.
//
// Definition: naive.py beside this file. A stream is one key head of one sequence; its queries are those of G heads.
// Names: D channels, padded to whole vector registers in the table; levels = digits + 1; row = the sum of one ball.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace {

constexpr int64_t kBytes = 64;  // one register of AVX-512; narrower machines take several

template <typename T> struct Pack {
  typedef T Value __attribute__((vector_size(kBytes), aligned(sizeof(T))));
  static constexpr int64_t width = kBytes / sizeof(T);
};

template <typename T> using Value = typename Pack<T>::Value;

template <typename T> inline Value<T>& at_pack(T* from) { return *reinterpret_cast<Value<T>*>(from); }

template <typename T> inline T sum_of(Value<T> value) {
  T total = 0;
  for (int64_t i = 0; i < Pack<T>::width; ++i) total += value[i];
  return total;
}

struct Tree {
  int64_t base, levels, nodes;
  std::vector<int64_t> first;  // number of the first ball of each level

  Tree(int64_t base, int64_t levels) : base(base), levels(levels), nodes(0) {
    int64_t count = 1;
    for (int64_t level = 0; level < levels; ++level, count *= base) {
      first.push_back(nodes);
      nodes += count;
    }
  }
};

// The table of one stream, and pointers to the rows of the balls of one token.
template <typename T> struct Table {
  const Tree& tree;
  int64_t packs;
  std::vector<T> sums;
  std::vector<T*> rows;

  Table(const Tree& tree, int64_t dim)
      : tree(tree),
        packs((dim + Pack<T>::width - 1) / Pack<T>::width),
        sums(tree.nodes * packs * Pack<T>::width),
        rows(tree.levels) {}

  int64_t stride() const { return packs * Pack<T>::width; }

  void clear() { std::fill(sums.begin(), sums.end(), T(0)); }

  void find(int64_t code) {
    TORCH_CHECK_VALUE(code >= 0 && code < tree.nodes - tree.first.back(), "ball sums: got code ", code, ", need 0 to ",
                      tree.nodes - tree.first.back() - 1);
    for (int64_t level = tree.levels; level-- > 0; code /= tree.base)
      rows[level] = sums.data() + (tree.first[level] + code) * stride();
  }

  void add(const T* weights, T* vector) {
    for (int64_t level = 0; level < tree.levels; ++level)
      for (int64_t p = 0; p < packs; ++p)
        at_pack(rows[level] + p * Pack<T>::width) += weights[level] * at_pack(vector + p * Pack<T>::width);
  }

  void read(const T* weights, T* out) {
    for (int64_t p = 0; p < packs; ++p) {
      Value<T> total = {};
      for (int64_t level = 0; level < tree.levels; ++level)
        total += weights[level] * at_pack(rows[level] + p * Pack<T>::width);
      at_pack(out + p * Pack<T>::width) = total;
    }
  }

  void dot(T* vector, T* out) {
    for (int64_t level = 0; level < tree.levels; ++level) {
      Value<T> total = {};
      for (int64_t p = 0; p < packs; ++p)
        total += at_pack(rows[level] + p * Pack<T>::width) * at_pack(vector + p * Pack<T>::width);
      out[level] = sum_of<T>(total);
    }
  }
};

struct Sizes {
  int64_t streams, groups, length, levels, dim;
};

Sizes sizes_of(const at::Tensor& query_codes, const at::Tensor& key_codes, const at::Tensor& b, const at::Tensor& v) {
  return {key_codes.size(0) * key_codes.size(1), query_codes.size(1) / key_codes.size(1), key_codes.size(2), b.size(3),
          v.size(3)};
}

template <typename T>
void forward_streams(const Sizes& s, const Tree& tree, const int64_t* query_codes, const int64_t* key_codes, const T* a,
                     const T* b, const T* v, T* out, int64_t begin, int64_t end) {
  Table<T> table(tree, s.dim);
  std::vector<T> row(table.stride());
  for (int64_t r = begin; r < end; ++r) {
    table.clear();
    for (int64_t t = 0; t < s.length; ++t) {
      const int64_t key = r * s.length + t;
      std::copy_n(v + key * s.dim, s.dim, row.begin());
      std::fill(row.begin() + s.dim, row.end(), T(0));
      table.find(key_codes[key]);
      table.add(b + key * s.levels, row.data());
      for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t query = (r * s.groups + g) * s.length + t;
        table.find(query_codes[query]);
        table.read(a + query * s.levels, row.data());
        std::copy_n(row.begin(), s.dim, out + query * s.dim);
      }
    }
  }
}

template <typename T>
void backward_streams(const Sizes& s, const Tree& tree, const T* gradient, const int64_t* query_codes,
                      const int64_t* key_codes, const T* a, const T* b, const T* v, T* grad_a, T* grad_b, T* grad_v,
                      int64_t begin, int64_t end) {
  Table<T> table(tree, s.dim);
  std::vector<T> row(table.stride()), mixed(table.stride());
  for (int64_t r = begin; r < end; ++r) {
    table.clear();
    for (int64_t t = 0; t < s.length; ++t) {  // what each query saw
      const int64_t key = r * s.length + t;
      std::copy_n(v + key * s.dim, s.dim, row.begin());
      table.find(key_codes[key]);
      table.add(b + key * s.levels, row.data());
      for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t query = (r * s.groups + g) * s.length + t;
        std::copy_n(gradient + query * s.dim, s.dim, row.begin());
        table.find(query_codes[query]);
        table.dot(row.data(), grad_a + query * s.levels);
      }
    }
    table.clear();
    for (int64_t t = s.length; t-- > 0;) {  // who will see each key
      for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t query = (r * s.groups + g) * s.length + t;
        std::copy_n(gradient + query * s.dim, s.dim, row.begin());
        table.find(query_codes[query]);
        table.add(a + query * s.levels, row.data());
      }
      const int64_t key = r * s.length + t;
      std::copy_n(v + key * s.dim, s.dim, row.begin());
      table.find(key_codes[key]);
      table.dot(row.data(), grad_b + key * s.levels);
      table.read(b + key * s.levels, mixed.data());
      std::copy_n(mixed.begin(), s.dim, grad_v + key * s.dim);
    }
  }
}

at::Tensor forward(const at::Tensor& query_codes, const at::Tensor& key_codes, const at::Tensor& a, const at::Tensor& b,
                   const at::Tensor& v, int64_t base) {
  const Sizes s = sizes_of(query_codes, key_codes, b, v);
  const Tree tree(base, s.levels);
  at::Tensor out = at::empty({query_codes.size(0), query_codes.size(1), s.length, s.dim}, v.options());
  AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "ball_sums", [&] {
    at::parallel_for(0, s.streams, 1, [&](int64_t begin, int64_t end) {
      forward_streams<scalar_t>(s, tree, query_codes.data_ptr<int64_t>(), key_codes.data_ptr<int64_t>(),
                                a.data_ptr<scalar_t>(), b.data_ptr<scalar_t>(), v.data_ptr<scalar_t>(),
                                out.data_ptr<scalar_t>(), begin, end);
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(const at::Tensor& gradient, const at::Tensor& query_codes,
                                                        const at::Tensor& key_codes, const at::Tensor& a,
                                                        const at::Tensor& b, const at::Tensor& v, int64_t base) {
  const Sizes s = sizes_of(query_codes, key_codes, b, v);
  const Tree tree(base, s.levels);
  at::Tensor grad_a = at::empty_like(a), grad_b = at::empty_like(b), grad_v = at::empty_like(v);
  AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "ball_sums_backward", [&] {
    at::parallel_for(0, s.streams, 1, [&](int64_t begin, int64_t end) {
      backward_streams<scalar_t>(s, tree, gradient.data_ptr<scalar_t>(), query_codes.data_ptr<int64_t>(),
                                 key_codes.data_ptr<int64_t>(), a.data_ptr<scalar_t>(), b.data_ptr<scalar_t>(),
                                 v.data_ptr<scalar_t>(), grad_a.data_ptr<scalar_t>(), grad_b.data_ptr<scalar_t>(),
                                 grad_v.data_ptr<scalar_t>(), begin, end);
    });
  });
  return {grad_a, grad_b, grad_v};
}

}  // namespace

TORCH_LIBRARY(mgr_prefix, m) {
  m.def("forward(Tensor query_codes, Tensor key_codes, Tensor a, Tensor b, Tensor v, int base) -> Tensor");
  m.def(
      "backward(Tensor gradient, Tensor query_codes, Tensor key_codes, Tensor a, Tensor b, Tensor v, int base)"
      " -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(mgr_prefix, CPU, m) {
  m.impl("forward", forward);
  m.impl("backward", backward);
}

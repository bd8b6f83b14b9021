#pragma once

/// The vectorised loops of `torchship::lstm_pointwise`. This header knows nothing of LibTorch: it
/// is included where the compiler may use instructions that not every CPU has.

#include <cstdint>

namespace torchship::ops {

/// A matrix of rows that lie `row_stride` elements apart, and whose elements lie side by side.
template <typename T>
struct Rows {
  T* data;
  std::int64_t row_stride;

  T* row(std::int64_t number) const { return data + number * row_stride; }
};

/// `gates` [rows, 4 * hidden] in the order i, f, g, o, before the nonlinearities; all others
/// [rows, hidden]. `h` and `c_next` are written.
template <typename T>
struct Forward {
  std::int64_t hidden;
  Rows<const T> gates;
  Rows<const T> c;
  Rows<T> h;
  Rows<T> c_next;
};

/// The gradients of the two results, and where those of the two arguments go.
template <typename T>
struct Backward {
  std::int64_t hidden;
  Rows<const T> grad_h;
  Rows<const T> grad_c_next;
  Rows<const T> gates;
  Rows<const T> c;
  Rows<T> grad_gates;
  Rows<T> grad_c;
};

/// What one build of the loops offers. Each works on the rows from `begin` up to `end`; an
/// element's result depends on neither its row nor its column. Any thread may call them, on rows
/// that no other one writes.
struct Kernels {
  void (*forward_float)(const Forward<float>&, std::int64_t begin, std::int64_t end);
  void (*forward_double)(const Forward<double>&, std::int64_t begin, std::int64_t end);
  void (*backward_float)(const Backward<float>&, std::int64_t begin, std::int64_t end);
  void (*backward_double)(const Backward<double>&, std::int64_t begin, std::int64_t end);
};

/// The builds: for every CPU of the architecture, and for x86-64 ones with AVX2 or AVX-512.
extern const Kernels kernels_DEFAULT;
extern const Kernels kernels_AVX2;
extern const Kernels kernels_AVX512;

}  // namespace torchship::ops

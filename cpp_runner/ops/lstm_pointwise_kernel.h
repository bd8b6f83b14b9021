#pragma once

/// The vectorised loops of `torchship::lstm_pointwise`. This header includes nothing of LibTorch.
/// It is also compiled for instruction sets that not every CPU has, and the linker could choose
/// those copies of LibTorch's inline functions for the whole library.

#include <cstdint>

namespace torchship::ops {

/// A matrix whose rows begin `row_stride` elements apart. The elements of a row are contiguous.
template <typename T>
struct Rows {
  T* data;
  std::int64_t row_stride;

  T* row(std::int64_t number) const { return data + number * row_stride; }
};

/// The tensors of a forward pass. `gates` is [rows, 4 * hidden] in the order i, f, g, o, before the
/// nonlinearities; the others are [rows, hidden]. `h` and `c_next` are outputs.
template <typename T>
struct Forward {
  std::int64_t hidden;
  Rows<const T> gates;
  Rows<const T> c;
  Rows<T> h;
  Rows<T> c_next;
};

/// The tensors of a backward pass, with shapes as in Forward. `grad_gates` and `grad_c` are
/// outputs.
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

/// The loops, compiled for one instruction set. Each processes the rows from `begin` up to, but
/// without, `end`. The result for an element depends on neither its row nor its column. Threads may
/// call them at the same time on different rows.
struct Kernels {
  void (*forward_float)(const Forward<float>&, std::int64_t begin, std::int64_t end);
  void (*forward_double)(const Forward<double>&, std::int64_t begin, std::int64_t end);
  void (*backward_float)(const Backward<float>&, std::int64_t begin, std::int64_t end);
  void (*backward_double)(const Backward<double>&, std::int64_t begin, std::int64_t end);
};

/// The loops for every CPU of the architecture, and for x86-64 CPUs with AVX2 or AVX-512.
extern const Kernels kernels_DEFAULT;
extern const Kernels kernels_AVX2;
extern const Kernels kernels_AVX512;

}  // namespace torchship::ops

/// Compiled once for each CPU_CAPABILITY, which determines the vector width of at::vec.

#include "lstm_pointwise_kernel.h"

#include <ATen/cpu/vec/vec.h>

#include <algorithm>

#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)

namespace torchship::ops {
namespace {

/// The same operations, each rounded, as in torch's sigmoid on the CPU.
template <typename V>
V sigmoid(const V& x) {
  return V(1) / (V(1) + x.neg().exp());
}

/// Near 0 this is x N(s) / D(s) with s = x * x: the eighth convergent of Lambert's continued
/// fraction x / (1 + s / (3 + s / (5 + ...))), whose error there is below the precision of float64.
/// Elsewhere it is (1 - z) / (1 + z) with z = exp(-2 |x|). Both share one division, which makes it
/// several times faster than Vectorized::tanh. The error is at most 4 ULP.
template <typename V>
V tanh(const V& x) {
  const V size = x.abs();
  const V z = (V(-2) * size).exp();
  const V s = x * x;
  const V n = V(2027025) + s * (V(270270) + s * (V(6930) + s * V(36)));
  const V d = V(2027025) + s * (V(945945) + s * (V(51975) + s * (V(630) + s)));
  const V near = size < V(0.625);  // false for NaN, which then propagates through z
  const V result = V::blendv(V(1) - z, size * n, near) / V::blendv(V(1) + z, d, near);
  return V::blendv(result, result.neg(), x < V(0));
}

/// Calls `body(column, count)` for each group of columns that fills a vector; the last may be
/// smaller.
template <typename T, typename Body>
void for_vectors(std::int64_t hidden, const Body& body) {
  constexpr std::int64_t width = at::vec::Vectorized<T>::size();
  for (std::int64_t column = 0; column < hidden; column += width) {
    body(column, static_cast<int>(std::min(width, hidden - column)));
  }
}

template <typename T>
void forward(const Forward<T>& job, std::int64_t begin, std::int64_t end) {
  using V = at::vec::Vectorized<T>;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* gates = job.gates.row(row);
    const T* c = job.c.row(row);
    T* h = job.h.row(row);
    T* c_next = job.c_next.row(row);
    for_vectors<T>(job.hidden, [&](std::int64_t column, int count) {
      const auto gate = [&](int number) {
        return V::loadu(gates + number * job.hidden + column, count);
      };
      const V i = sigmoid(gate(0));
      const V f = sigmoid(gate(1));
      const V g = tanh(gate(2));
      const V o = sigmoid(gate(3));
      const V next = f * V::loadu(c + column, count) + i * g;
      next.store(c_next + column, count);
      (o * tanh(next)).store(h + column, count);
    });
  }
}

/// Computes the gates and the next cell state again, because keeping them would take more memory
/// than the inputs, which autograd keeps anyway.
template <typename T>
void backward(const Backward<T>& job, std::int64_t begin, std::int64_t end) {
  using V = at::vec::Vectorized<T>;
  const V one(1);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* gates = job.gates.row(row);
    const T* c_row = job.c.row(row);
    const T* grad_h_row = job.grad_h.row(row);
    const T* grad_c_next_row = job.grad_c_next.row(row);
    T* grad_gates = job.grad_gates.row(row);
    T* grad_c = job.grad_c.row(row);
    for_vectors<T>(job.hidden, [&](std::int64_t column, int count) {
      const auto gate = [&](int number) {
        return V::loadu(gates + number * job.hidden + column, count);
      };
      const auto put = [&](int number, const V& value) {
        value.store(grad_gates + number * job.hidden + column, count);
      };
      const V i = sigmoid(gate(0));
      const V f = sigmoid(gate(1));
      const V g = tanh(gate(2));
      const V o = sigmoid(gate(3));
      const V c = V::loadu(c_row + column, count);
      const V tanh_c = tanh(f * c + i * g);
      const V grad_h = V::loadu(grad_h_row + column, count);
      const V grad_next = V::loadu(grad_c_next_row + column, count) +
                          grad_h * o * (one - tanh_c * tanh_c);  // of the next cell state
      put(0, grad_next * g * i * (one - i));
      put(1, grad_next * c * f * (one - f));
      put(2, grad_next * i * (one - g * g));
      put(3, grad_h * tanh_c * o * (one - o));
      (grad_next * f).store(grad_c + column, count);
    });
  }
}

}  // namespace

const Kernels JOINED(kernels_, CPU_CAPABILITY) = {forward<float>, forward<double>, backward<float>,
                                                  backward<double>};

}  // namespace torchship::ops

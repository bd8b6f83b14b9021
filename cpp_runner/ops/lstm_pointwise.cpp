/// The operator `torchship::lstm_pointwise(Tensor gates, Tensor c) -> (Tensor h, Tensor c_next)`:
/// what an LSTM cell does after its matrix products, in one pass over the memory.
///
///   gates   float32 or float64 [batch, 4 * hidden], before the nonlinearities, in the order
///           i, f, g, o (input gate, forget gate, candidate, output gate), as in torch.nn.LSTM
///   c       [batch, hidden], of the same dtype and device: the cell state before the step
///   c_next  sigmoid(f) * c + sigmoid(i) * tanh(g), [batch, hidden]
///   h       sigmoid(o) * tanh(c_next), [batch, hidden]
///
/// On the CPU this is a vectorised kernel; on other devices, the same formula in torch's operators.
/// Both can be differentiated, also several times. Any thread may call the operator, and its
/// results do not depend on the number of threads. Wrong dtypes, devices and shapes raise
/// ValueError in Python.

#include "lstm_pointwise_kernel.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/Version.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

namespace torchship::ops {
namespace {

using at::Tensor;
using Pair = std::tuple<Tensor, Tensor>;
using MaybeTensor = std::optional<Tensor>;

constexpr std::int64_t grain = 2048;  // elements of h below which another thread does not pay

const Kernels& kernels() {
  // Torch's own choice, so that the environment variable ATEN_CPU_CAPABILITY applies here too.
  static const Kernels& chosen = []() -> const Kernels& {
#ifdef TORCHSHIP_OPS_X86
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") return kernels_AVX512;
    if (capability == "AVX2") return kernels_AVX2;
#endif
    return kernels_DEFAULT;
  }();
  return chosen;
}

void check(const Tensor& gates, const Tensor& c) {
  const auto dtype = c.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble,
                    "lstm_pointwise: c: expected float32 or float64, got ", dtype);
  TORCH_CHECK_VALUE(gates.scalar_type() == dtype, "lstm_pointwise: gates: expected ", dtype,
                    " as c has it, got ", gates.scalar_type());
  TORCH_CHECK_VALUE(gates.device() == c.device(), "lstm_pointwise: gates: expected to be on ",
                    c.device(), " as c is, got ", gates.device());
  TORCH_CHECK_VALUE(c.dim() == 2, "lstm_pointwise: c: expected [batch, hidden], got ",
                    c.sym_sizes());
  TORCH_CHECK_VALUE(gates.dim() == 2 && gates.sym_size(0) == c.sym_size(0) &&
                        gates.sym_size(1) == c.sym_size(1) * 4,
                    "lstm_pointwise: gates: expected [batch, 4 * hidden] = [", c.sym_size(0), ", ",
                    c.sym_size(1) * 4, "], got ", gates.sym_sizes());
}

/// The tensor itself if the elements of each row are contiguous, otherwise a contiguous copy.
Tensor with_rows(const Tensor& tensor) {
  return tensor.stride(1) == 1 || tensor.size(1) <= 1 ? tensor : tensor.contiguous();
}

template <typename T>
Rows<const T> read(const Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), tensor.stride(0)};
}

template <typename T>
Rows<T> write(const Tensor& tensor) {
  return {tensor.mutable_data_ptr<T>(), tensor.stride(0)};
}

template <typename Job, typename Kernel>
void in_parallel(const Tensor& c, const Job& job, Kernel kernel) {
  const std::int64_t rows = std::max<std::int64_t>(1, grain / std::max<std::int64_t>(1, c.size(1)));
  at::parallel_for(0, c.size(0), rows,
                   [&](std::int64_t begin, std::int64_t end) { kernel(job, begin, end); });
}

Tensor empty_rows(const Tensor& like) {
  return at::empty(like.sizes(), like.options());
}

Pair forward_cpu(const Tensor& given_gates, const Tensor& given_c) {
  check(given_gates, given_c);
  const Tensor gates = with_rows(given_gates), c = with_rows(given_c);
  const Tensor h = empty_rows(c), c_next = empty_rows(c);
  if (c.scalar_type() == at::kFloat) {
    const Forward<float> job{c.size(1), read<float>(gates), read<float>(c), write<float>(h),
                             write<float>(c_next)};
    in_parallel(c, job, kernels().forward_float);
  } else {
    const Forward<double> job{c.size(1), read<double>(gates), read<double>(c), write<double>(h),
                              write<double>(c_next)};
    in_parallel(c, job, kernels().forward_double);
  }
  return {h, c_next};
}

Tensor or_zeros(const MaybeTensor& grad, const Tensor& c) {
  return grad && grad->defined() ? *grad : at::zeros_like(c);
}

template <typename T>
Backward<T> backward_job(const Tensor& grad_h, const Tensor& grad_c_next, const Tensor& gates,
                         const Tensor& c, const Tensor& grad_gates, const Tensor& grad_c) {
  return {c.size(1),  read<T>(grad_h),      read<T>(grad_c_next), read<T>(gates),
          read<T>(c), write<T>(grad_gates), write<T>(grad_c)};
}

Pair backward_cpu(const MaybeTensor& maybe_grad_h, const MaybeTensor& maybe_grad_c_next,
                  const Tensor& given_gates, const Tensor& given_c) {
  check(given_gates, given_c);
  const Tensor gates = with_rows(given_gates), c = with_rows(given_c);
  const Tensor grad_h = with_rows(or_zeros(maybe_grad_h, c));
  const Tensor grad_c_next = with_rows(or_zeros(maybe_grad_c_next, c));
  for (const Tensor& grad : {grad_h, grad_c_next}) {
    TORCH_CHECK_VALUE(grad.sizes() == c.sizes() && grad.scalar_type() == c.scalar_type(),
                      "lstm_pointwise_backward: a gradient: expected ", c.scalar_type(), c.sizes(),
                      ", got ", grad.scalar_type(), grad.sizes());
  }
  const Tensor grad_gates = empty_rows(gates), grad_c = empty_rows(c);
  if (c.scalar_type() == at::kFloat) {
    in_parallel(c, backward_job<float>(grad_h, grad_c_next, gates, c, grad_gates, grad_c),
                kernels().backward_float);
  } else {
    in_parallel(c, backward_job<double>(grad_h, grad_c_next, gates, c, grad_gates, grad_c),
                kernels().backward_double);
  }
  return {grad_gates, grad_c};
}

/// The formula in torch's operators, for devices without a kernel of ours.
Pair forward_plain(const Tensor& gates, const Tensor& c) {
  check(gates, c);
  const auto parts = gates.chunk(4, 1);
  const Tensor c_next = at::sigmoid(parts[1]) * c + at::sigmoid(parts[0]) * at::tanh(parts[2]);
  return {at::sigmoid(parts[3]) * at::tanh(c_next), c_next};
}

/// The gradients in torch's operators, so that autograd can differentiate them again.
Pair backward_plain(const MaybeTensor& maybe_grad_h, const MaybeTensor& maybe_grad_c_next,
                    const Tensor& gates, const Tensor& c) {
  check(gates, c);
  const Tensor grad_h = or_zeros(maybe_grad_h, c), from_next = or_zeros(maybe_grad_c_next, c);
  const auto parts = gates.chunk(4, 1);
  const Tensor i = at::sigmoid(parts[0]), f = at::sigmoid(parts[1]);
  const Tensor g = at::tanh(parts[2]), o = at::sigmoid(parts[3]);
  const Tensor tanh_c = at::tanh(f * c + i * g);
  const Tensor grad_next = from_next + grad_h * o * (1 - tanh_c * tanh_c);
  const Tensor grad_gates = at::cat({grad_next * g * i * (1 - i), grad_next * c * f * (1 - f),
                                     grad_next * i * (1 - g * g), grad_h * tanh_c * o * (1 - o)},
                                    1);
  return {grad_gates, grad_next * f};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Pair call_forward(const Tensor& gates, const Tensor& c) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchship::lstm_pointwise", "")
                             .typed<decltype(forward_cpu)>();
  return op.call(gates, c);
}

Pair call_backward(const MaybeTensor& grad_h, const MaybeTensor& grad_c_next, const Tensor& gates,
                   const Tensor& c) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchship::lstm_pointwise_backward", "")
                             .typed<decltype(backward_cpu)>();
  return op.call(grad_h, grad_c_next, gates, c);
}

struct LstmPointwise : torch::autograd::Function<LstmPointwise> {
  static variable_list forward(AutogradContext* context, const Tensor& gates, const Tensor& c) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({gates, c});
    context->set_materialize_grads(false);
    const auto [h, c_next] = call_forward(gates, c);
    return {h, c_next};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined() && !grads[1].defined()) return {Tensor(), Tensor()};
    const auto saved = context->get_saved_variables();
    // For gradients of gradients autograd needs the formula; it cannot differentiate the kernel.
    const auto [grad_gates, grad_c] = at::GradMode::is_enabled()
                                          ? backward_plain(grads[0], grads[1], saved[0], saved[1])
                                          : call_backward(grads[0], grads[1], saved[0], saved[1]);
    return {grad_gates, grad_c};
  }
};

Pair forward_autograd(const Tensor& gates, const Tensor& c) {
  const variable_list results = LstmPointwise::apply(gates, c);
  return {results[0], results[1]};
}

}  // namespace

TORCH_LIBRARY(torchship, m) {
  m.def("lstm_pointwise(Tensor gates, Tensor c) -> (Tensor, Tensor)");
  m.def(
      "lstm_pointwise_backward(Tensor? grad_h, Tensor? grad_c_next, Tensor gates, Tensor c) -> "
      "(Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(torchship, CPU, m) {
  m.impl("lstm_pointwise", forward_cpu);
  m.impl("lstm_pointwise_backward", backward_cpu);
}

TORCH_LIBRARY_IMPL(torchship, CompositeExplicitAutograd, m) {
  m.impl("lstm_pointwise", forward_plain);
  m.impl("lstm_pointwise_backward", backward_plain);
}

TORCH_LIBRARY_IMPL(torchship, Autograd, m) {
  m.impl("lstm_pointwise", forward_autograd);
}

}  // namespace torchship::ops

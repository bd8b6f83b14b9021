#include <torchship/error.h>
#include <torchship/runtime.h>

#include "base/floating_point.h"
#include "runtime/blas.h"
#include "runtime/libtorch.h"
#include "runtime/threads.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <mutex>

namespace torchship {
namespace {

using torch::jit::FusionBehavior;

// How many shapes get a kernel of their own, and how many kernels for any shape: LibTorch's own
// figures.
constexpr std::size_t static_kernels = 2;
constexpr std::size_t dynamic_kernels = 10;

void set_fusion(Fusion fusion) {
  torch::jit::setTensorExprFuserEnabled(fusion != Fusion::off);
  // Without fusion a profile of the calls is of no use, and taking it costs an eighth of a small
  // model's time.
  torch::jit::getProfilingMode() = fusion != Fusion::off;
  if (fusion == Fusion::off) return;
  torch::jit::FusionStrategy strategy{fusion == Fusion::static_shapes
                                          ? std::pair(FusionBehavior::STATIC, static_kernels)
                                          : std::pair(FusionBehavior::DYNAMIC, dynamic_kernels)};
  torch::jit::setFusionStrategy(strategy);
}

Fusion fusion_in_force() {
  if (!torch::jit::tensorExprFuserEnabled()) return Fusion::off;
  const torch::jit::FusionStrategy strategy = torch::jit::getFusionStrategy();
  const bool fixed = !strategy.empty() && strategy.back().first == FusionBehavior::STATIC;
  return fixed ? Fusion::static_shapes : Fusion::dynamic_shapes;
}

std::string float32_matmul() {
  switch (at::globalContext().float32MatmulPrecision()) {
    case at::Float32MatmulPrecision::HIGHEST:
      return "highest";
    case at::Float32MatmulPrecision::HIGH:
      return "high";
    case at::Float32MatmulPrecision::MEDIUM:
      break;
  }
  return "medium";
}

}  // namespace

void configure_runtime(int threads, Fusion fusion) {
  const DefaultFloatingPoint mode;  // LibTorch may start threads, which inherit it
  check_libtorch();
  want_threads(threads);
  static std::once_flag once;
  std::call_once(once, [] {
    try {
      at::set_num_interop_threads(1);
    } catch (const c10::Error&) {
      // LibTorch takes it once, and the program around us has set it already, or used the threads.
      // It changes no result, only which thread computes the branches of `torch.jit.fork`.
    }
    at::globalContext().setAllowTF32CuDNN(false);  // full float32 products, as on the CPU
  });
  set_fusion(fusion);
  at::set_num_threads(threads);
}

RuntimeSettings runtime_settings() {
  const at::Context& context = at::globalContext();
  return {.threads = at::get_num_threads(),
          .interop_threads = static_cast<int>(at::get_num_interop_threads()),
          .fusion = fusion_in_force(),
          .profiling_executor = torch::jit::getProfilingMode().load(),
          .onednn = context.userEnabledMkldnn(),
          .deterministic = context.deterministicAlgorithms(),
          .float32_matmul = float32_matmul(),
          .cudnn_tf32 = context.allowTF32CuDNN(),
          .foreign_blas = foreign_blas()};
}

}  // namespace torchship

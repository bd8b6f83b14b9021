#include <torchship/runtime.h>

#include <ATen/Parallel.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>

#include <mutex>

namespace torchship {

void configure_runtime(int threads) {
  static std::once_flag once;
  std::call_once(once, [] {
    at::set_num_interop_threads(1);  // LibTorch refuses a second call
    torch::jit::setTensorExprFuserEnabled(false);
  });
  at::set_num_threads(threads);
}

}  // namespace torchship

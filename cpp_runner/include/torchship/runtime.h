#pragma once

/// LibTorch's settings of this process, on which results depend besides the archive.

#include <torchship/hide_macros.h>

#include <torchship/options.h>

#include <string>

namespace torchship {

/// Sets what rounding and speed depend on, for the whole process: the number of threads inside an
/// operator, one thread between operators, and the fuser. Python does the same in torchship.script.
/// Inference mode is not set here: it is thread-local in LibTorch, so every call of a Session
/// enters it.
///
/// Archive::open() calls this function. If two archives of one process have different options,
/// those of the archive opened last hold for both. Not thread-safe, and no model may run meanwhile.
/// The number of threads also takes effect in a calling thread that has used LibTorch before.
/// Raises UsageError for a number of threads that is not between 1 and 1024.
void configure_runtime(int threads = Options{}.threads, Fusion fusion = Options{}.fusion);

/// LibTorch's settings as they hold in the calling thread.
struct RuntimeSettings {
  int threads = 0;                  // inside an operator
  int interop_threads = 0;          // between operators (`torch.jit.fork`)
  Fusion fusion = Fusion::off;      // of TensorExpr
  bool profiling_executor = false;  // specialises the graph for what it has seen
  bool onednn = false;              // whether oneDNN's kernels may be used
  bool deterministic = false;       // torch.use_deterministic_algorithms
  std::string float32_matmul;       // precision of products: `highest` is float32
  bool cudnn_tf32 = false;          // whether convolutions on CUDA may use TF32
  std::string foreign_blas;         // the file of a BLAS that replaces LibTorch's; or empty
};

/// Reads the settings from LibTorch.
RuntimeSettings runtime_settings();

}  // namespace torchship

#include <torchship/restore_macros.h>

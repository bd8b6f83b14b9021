#pragma once

/// What the numbers depend on beside the archive: LibTorch's settings of this process.

#include <torchship/hide_macros.h>

#include <torchship/options.h>

#include <string>

namespace torchship {

/// Sets what decides about the last bits of a result and about speed, for the whole process:
/// threads inside an operator, one thread between operators, the fuser. Python does the same in
/// torchship.script. The last default, inference mode, is thread-local in LibTorch, and so every
/// Session call enters it by itself. Archive::open() calls it; where two archives of one process
/// want different things, those of the one opened last hold, for both. Not thread-safe: no model
/// may run meanwhile. Raises UsageError for a number of threads below 1.
void configure_runtime(int threads = Options{}.threads, Fusion fusion = Options{}.fusion);

/// What LibTorch says is in force, in the calling thread.
struct RuntimeSettings {
  int threads = 0;                  // inside an operator
  int interop_threads = 0;          // between operators (`torch.jit.fork`)
  Fusion fusion = Fusion::off;      // of TensorExpr
  bool profiling_executor = false;  // the graph executor that specialises what it has seen
  bool onednn = false;              // oneDNN's kernels where there are some
  bool deterministic = false;       // torch.use_deterministic_algorithms
  std::string float32_matmul;       // `highest`: products of float32 are of float32
  bool cudnn_tf32 = false;          // the same for convolutions on CUDA; false: of float32
};

RuntimeSettings runtime_settings();

}  // namespace torchship

#include <torchship/restore_macros.h>

#pragma once

namespace torchship {

/// Sets what decides about the last bits of a result and about speed, for the whole process:
/// `threads` inside an operator (1 is the default of every torchship program: the order of a sum,
/// and so its rounding, depends on how it is split), one thread between operators, and no
/// TensorExpr fuser: it compiles kernels at run time whose rounding differs from that of the
/// operators they replace. Python does the same in torchship.script. The last default, inference
/// mode, is thread-local in LibTorch, and so every Session call enters it by itself. Call it before
/// the first model runs; a later call can still change `threads`. Not thread-safe.
void configure_runtime(int threads = 1);

}  // namespace torchship

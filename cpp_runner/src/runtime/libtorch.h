#pragma once

#include <string>

/// The LibTorch that this process has loaded, and what of it is loaded only when it is asked for.

namespace torchship {

/// Checks that the LibTorch of this process is of the minor version that this library was built
/// with: its C++ ABI changes between minors. Costs a comparison. Raises UsageError.
void check_libtorch();

/// The minor version that this library was built with, such as `2.13`.
std::string libtorch_minor();

/// Loads LibTorch's code for CUDA, if this build of it has some. Programs that stay on the CPU
/// never do: it is a gigabyte of libraries. To be called before LibTorch is first asked for CUDA.
void load_cuda_code();

}  // namespace torchship

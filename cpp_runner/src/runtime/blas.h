#pragma once

/// Which library computes LibTorch's matrix products. Internal.

#include <string>

namespace torchship {

/// The file of another BLAS or LAPACK that has taken the place of LibTorch's own, as the dynamic
/// linker binds LibTorch's calls; empty where LibTorch computes its products itself.
std::string foreign_blas();

/// The same for a message: what it means, and what to do; empty likewise.
std::string foreign_blas_note();

}  // namespace torchship

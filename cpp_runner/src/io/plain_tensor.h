#pragma once

/// Tensors whose memory holds their values. LibTorch may only note a transposition, a sign, a
/// conjugation or zeros, and carry it out later. Internal.

#include <ATen/core/Tensor.h>

namespace torchship {

/// The tensor, contiguous, with everything carried out that LibTorch has only noted. Returns the
/// same tensor where there is nothing to do.
at::Tensor plain(const at::Tensor& tensor);

/// What plain() gives, in memory that nothing else uses, without a gradient to compute. `shared`:
/// something else holds the tensor.
at::Tensor owned(const at::Tensor& tensor, bool shared);

/// The same on the CPU, to be written somewhere. Raises EncodingError for what is not dense.
at::Tensor writable(const at::Tensor& tensor);

}  // namespace torchship

#pragma once

/// Tensors whose memory says what they are. LibTorch keeps some things for later: strides, a sign,
/// a conjugation, zeros that nobody has written. Internal.

#include <ATen/core/Tensor.h>

namespace torchship {

/// The tensor, contiguous, with nothing left for later: its elements are what its memory holds. The
/// same tensor where it is so already.
at::Tensor plain(const at::Tensor& tensor);

/// What plain() gives, in memory that nobody else uses and without a gradient to compute. `shared`:
/// somebody else holds the tensor.
at::Tensor owned(const at::Tensor& tensor, bool shared);

/// The same on the CPU, to be written somewhere. Raises EncodingError for what is not dense.
at::Tensor writable(const at::Tensor& tensor);

}  // namespace torchship

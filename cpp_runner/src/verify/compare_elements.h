#pragma once

/// Two tensors, element by element. Internal.

#include <torchship/verify.h>

namespace torchship {

/// All of a Difference but whether the two are bit-identical. They are of the same dtype and shape,
/// dense and contiguous on the CPU (plain_tensor.h).
Difference compare_elements(const at::Tensor& actual, const at::Tensor& golden,
                            const Tolerance& tolerance);

}  // namespace torchship

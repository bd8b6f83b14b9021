#pragma once

/// The second rule for runtimes without LibTorch (docs/archive.md, "Agreement of runtimes without
/// LibTorch"). Internal.

#include <ATen/core/Tensor.h>

#include <string>

namespace torchship {

/// Why an output that is within its tolerance does not agree, or an empty string. Integers and
/// booleans must be equal. The errors of floats, which are distances from `exact`, may be twice
/// LibTorch's own largest one plus 2 ULP; they are not bounded if `exact` is undefined.
/// `actual` and `golden` have the same dtype and shape; `exact` is float64 of this shape.
std::string beyond_bound(const at::Tensor& actual, const at::Tensor& golden,
                         const at::Tensor& exact, double own);

}  // namespace torchship

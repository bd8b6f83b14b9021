#pragma once

/// Bytes of a file to a tensor: what LibTorch itself does not check, or answers with an error of
/// its own. Internal.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace torchship {

/// The most dimensions that LibTorch's operators take.
inline constexpr std::size_t max_rank = 64;

/// A tensor that owns a copy of `bytes`, elements in C order, little-endian; the caller has checked
/// that they are as many as the shape needs. Raises std::invalid_argument with the reason for more
/// than 64 dimensions, sizes whose product does not fit into 63 bits (also where another size is
/// 0), and booleans other than 0 and 1.
at::Tensor raw_tensor(at::ScalarType dtype, const std::vector<std::int64_t>& shape,
                      std::string_view bytes);

}  // namespace torchship

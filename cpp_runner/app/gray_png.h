#pragma once

/// Gray pixels from PNG files, over libpng.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace torchship::app {

/// Pixels that are wanted; nothing is any number of them.
struct PixelSize {
  std::optional<std::int64_t> height;
  std::optional<std::int64_t> width;
};

/// The pixels of a PNG of `size`, 8 bits, gray, as they are in the file: uint8[height, width], no
/// colour management. The bytes are untrusted: whatever does not fit is an InputError that says
/// what came and what was expected; the pixels are looked at only when the header fits.
at::Tensor read_gray_png(std::string_view bytes, const PixelSize& size);

}  // namespace torchship::app

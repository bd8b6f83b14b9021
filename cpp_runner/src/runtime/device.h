#pragma once

/// Where models run. Internal.

#include <string>

namespace torchship {

/// Raises UsageError for a text that names no device, and for one that LibTorch does not have here.
void check_device(const std::string& device);

}  // namespace torchship

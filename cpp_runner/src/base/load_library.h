#pragma once

/// Shared libraries, loaded at run time. Internal.

#include <filesystem>
#include <optional>
#include <string>

namespace torchship {

/// Loads a shared library for as long as the process lives, since LibTorch keeps pointers into what
/// the library registers. `visibility` is RTLD_LOCAL or RTLD_GLOBAL. Returns nothing, or why the
/// library could not be loaded. Any thread may call it.
std::optional<std::string> load_library(const std::filesystem::path& file, int visibility);

}  // namespace torchship

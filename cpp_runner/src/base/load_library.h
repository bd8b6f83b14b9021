#pragma once

/// Shared libraries, loaded at run time. Internal.

#include <filesystem>
#include <string>
#include <string_view>

namespace torchship {

/// A library, or why it could not be loaded.
struct LoadedLibrary {
  void* handle = nullptr;  // for dlsym(); null if it could not be loaded
  std::string failure;
};

/// Loads a shared library for as long as the process lives, since LibTorch keeps pointers into what
/// the library registers. `visibility` is RTLD_LOCAL or RTLD_GLOBAL. Any thread may call it.
LoadedLibrary load_library(const std::filesystem::path& file, int visibility);

/// The same, RTLD_LOCAL, for the bytes of a shared library. `name` is what debuggers show.
LoadedLibrary load_library(std::string_view bytes, const std::string& name);

}  // namespace torchship

#include "base/load_library.h"

#include <dlfcn.h>

namespace torchship {

std::optional<std::string> load_library(const std::filesystem::path& file, int visibility) {
  if (dlopen(file.c_str(), RTLD_NOW | visibility) != nullptr) return std::nullopt;
  const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): per thread in glibc
  return reason != nullptr ? reason : "no reason given";
}

}  // namespace torchship

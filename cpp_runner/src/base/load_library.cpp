#include "base/load_library.h"

#include "base/files.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <dlfcn.h>

namespace torchship {
namespace {

bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

LoadedLibrary load_library(const std::filesystem::path& file, int visibility) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | visibility);
  if (handle != nullptr) return {.handle = handle, .failure = ""};
  const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): per thread in glibc
  return {.handle = nullptr, .failure = reason != nullptr ? reason : "no reason given"};
}

LoadedLibrary load_library(std::string_view bytes, const std::string& name) {
  const int descriptor = memfd_create(name.c_str(), MFD_CLOEXEC);
  LoadedLibrary loaded;
  if (descriptor >= 0 && write_all(descriptor, bytes)) {
    loaded = load_library("/proc/self/fd/" + std::to_string(descriptor), RTLD_LOCAL);
  } else {
    loaded.failure = "cannot copy it to memory: " + errno_message();
  }
  // The file of a loaded library stays open: glibc knows libraries by their paths, and would take
  // the next one under this number for this one.
  if (loaded.handle == nullptr && descriptor >= 0) close(descriptor);
  return loaded;
}

}  // namespace torchship

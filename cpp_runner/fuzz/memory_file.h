#pragma once

/// A file in memory. Archives are opened by their path, and this lets tests write and read many
/// thousands of damaged archives without a disk.

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace torchship::testing {

/// The file exists as long as the object. Its path works in this process only. One thread at a
/// time.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("torchship", MFD_CLOEXEC)) { check(descriptor_ >= 0); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

  /// Replaces the whole content.
  void write(std::string_view bytes) {
    check(::ftruncate(descriptor_, 0) == 0);
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), 0);
    check(written == static_cast<ssize_t>(bytes.size()));
  }

 private:
  static void check(bool ok) {
    if (!ok) throw std::system_error(errno, std::generic_category(), "a file in memory");
  }

  int descriptor_;
};

}  // namespace torchship::testing

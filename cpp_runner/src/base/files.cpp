#include "base/files.h"

#include <torchship/error.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <new>
#include <system_error>

namespace torchship {
namespace {

constexpr std::size_t block_size = std::size_t{1} << 20U;

/// Removes the temporary file unless the rename has taken it away.
struct TemporaryFile {
  std::string path;
  int descriptor = -1;
  bool keep = false;

  TemporaryFile() = default;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (descriptor >= 0) ::close(descriptor);
    if (!keep && !path.empty()) ::unlink(path.c_str());
  }
};

}  // namespace

std::string errno_message() {
  return std::generic_category().message(errno);
}

std::string cannot_read(const std::filesystem::path& path) {
  return "cannot read '" + path.string() + "': " + errno_message();
}

std::string cannot_write(const std::filesystem::path& path) {
  return "cannot write '" + path.string() + "': " + errno_message();
}

std::optional<std::string> read_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    errno = EISDIR;
    return std::nullopt;
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream && errno == ENOMEM) throw std::bad_alloc();
  if (!stream) return std::nullopt;
  std::string bytes;
  // At once, where the size is known; a pipe has none.
  if (const auto size = std::filesystem::file_size(path, ignored); !ignored) bytes.reserve(size);
  for (std::string block(block_size, '\0'); stream;) {
    stream.read(block.data(), static_cast<std::streamsize>(block.size()));
    bytes.append(block, 0, static_cast<std::size_t>(stream.gcount()));
  }
  if (stream.bad()) return std::nullopt;
  return bytes;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  TemporaryFile file;
  std::string name = path.string() + ".XXXXXX";
  file.descriptor = ::mkstemp(name.data());
  if (file.descriptor < 0) throw WriteError(cannot_write(path));
  file.path = name;
  while (!bytes.empty()) {
    const ssize_t written = ::write(file.descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw WriteError(cannot_write(path));
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  // mkstemp makes the file private; give it the mode that any other new file would have.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  if (::fchmod(file.descriptor, 0666 & ~mask) != 0) throw WriteError(cannot_write(path));
  if (::fsync(file.descriptor) != 0) throw WriteError(cannot_write(path));
  if (::rename(file.path.c_str(), path.c_str()) != 0) throw WriteError(cannot_write(path));
  file.keep = true;
}

}  // namespace torchship

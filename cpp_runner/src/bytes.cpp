#include "bytes.h"

#include <torchship/error.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <set>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace torchship {
namespace {

constexpr int max_json_depth = 100;

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

[[noreturn]] void cannot_write(const std::filesystem::path& path) {
  throw WriteError("cannot write '" + path.string() +
                   "': " + std::generic_category().message(errno));
}

}  // namespace

std::optional<std::string> read_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    errno = EISDIR;
    return std::nullopt;
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return std::nullopt;
  std::string bytes(std::istreambuf_iterator<char>(stream), {});
  if (stream.bad()) return std::nullopt;
  return bytes;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  TemporaryFile file;
  std::string name = path.string() + ".XXXXXX";
  file.descriptor = ::mkstemp(name.data());
  if (file.descriptor < 0) cannot_write(path);
  file.path = name;
  while (!bytes.empty()) {
    const ssize_t written = ::write(file.descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) cannot_write(path);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  // mkstemp makes the file private; give it the mode that any other new file would have.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  if (::fchmod(file.descriptor, 0666 & ~mask) != 0) cannot_write(path);
  if (::fsync(file.descriptor) != 0) cannot_write(path);
  if (::rename(file.path.c_str(), path.c_str()) != 0) cannot_write(path);
  file.keep = true;
}

nlohmann::ordered_json parse_json(std::string_view text) {
  using Json = nlohmann::ordered_json;
  // The parser would skip it.
  if (text.starts_with("\xEF\xBB\xBF")) throw std::invalid_argument("a byte order mark");
  // The parser would take it for the end, and not look at what follows.
  if (text.find('\0') != std::string_view::npos) throw std::invalid_argument("a zero byte");
  std::vector<std::set<std::string>> keys;
  const auto watch = [&keys](int depth, Json::parse_event_t event, Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (depth >= max_json_depth) {
          throw std::invalid_argument("nested deeper than " + std::to_string(max_json_depth));
        }
        keys.emplace_back();
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!keys.back().insert(value.get<std::string>()).second) {
          throw std::invalid_argument("the key \"" + value.get<std::string>() + "\" occurs twice");
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ...": the rest is for us
    const std::string_view message = error.what();
    const auto start = message.find("] ");
    throw std::invalid_argument(
        std::string(start == std::string_view::npos ? message : message.substr(start + 2)));
  }
}

bool is_utf8(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto at = [&](std::size_t k) { return static_cast<unsigned char>(bytes[k]); };
    const unsigned lead = at(i);
    std::size_t extra = 0;
    std::uint32_t point = lead;
    if (lead >= 0xF0 && lead < 0xF8) {
      extra = 3;
      point = lead & 0x07U;
    } else if (lead >= 0xE0 && lead < 0xF0) {
      extra = 2;
      point = lead & 0x0FU;
    } else if (lead >= 0xC0 && lead < 0xE0) {
      extra = 1;
      point = lead & 0x1FU;
    } else if (lead >= 0x80) {
      return false;
    }
    if (i + extra >= bytes.size()) return false;
    for (std::size_t k = 1; k <= extra; ++k) {
      if ((at(i + k) & 0xC0U) != 0x80U) return false;
      point = (point << 6U) | (at(i + k) & 0x3FU);
    }
    constexpr std::uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    if (point < smallest[extra] || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) {
      return false;
    }
    i += extra + 1;
  }
  return true;
}

}  // namespace torchship

#pragma once

/// What is in an archive, read and checked. Internal.

#include <torchship/archive.h>
#include <torchship/manifest.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

struct ArchiveContents {
  std::filesystem::path path;  // or the name that was given to bytes in memory
  bool in_memory = false;
  std::uint64_t file_size = 0;  // bytes
  std::string top_folder;
  std::string name;
  bool signature_checked = false;
  std::optional<Manifest> manifest;
  std::vector<Record> records;
  std::vector<std::vector<GoldenStep>> golden;
};

/// Reads the zip, the manifest and the golden cases, and compares every record's digest. Raises
/// FormatError or ArchiveError with what is damaged, and OutOfMemoryError; each names `path`.
ArchiveContents read_contents(std::string_view bytes, const std::filesystem::path& path);

}  // namespace torchship

#pragma once

/// Whole files, read and written. Internal.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace torchship {

/// The whole file, or nothing if it cannot be read (`errno` says why).
std::optional<std::string> read_file(const std::filesystem::path& path);

/// What `errno` means: `No such file or directory`.
std::string errno_message();

/// `cannot read 'x.npz': ` or `cannot write 'x.npz': `, and what `errno` means.
std::string cannot_read(const std::filesystem::path& path);
std::string cannot_write(const std::filesystem::path& path);

/// Replaces the file in one step; raises WriteError.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace torchship

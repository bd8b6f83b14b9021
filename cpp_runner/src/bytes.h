#pragma once

/// Small helpers over bytes and files that several rooms need. Internal.

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace torchship {

/// The whole file, or nothing if it cannot be read (`errno` says why).
std::optional<std::string> read_file(const std::filesystem::path& path);

/// Replaces the file in one step; raises WriteError.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Parses JSON; raises std::invalid_argument for a syntax error, a byte order mark, a zero byte, a
/// key that occurs twice, or a nesting deeper than 100.
nlohmann::ordered_json parse_json(std::string_view text);

/// Whether the bytes are well-formed UTF-8.
bool is_utf8(std::string_view bytes);

/// An unsigned little-endian number of sizeof(T) bytes; the caller has checked that they are there.
template <typename T>
T load_le(std::string_view bytes, std::size_t offset) {
  static_assert(std::is_unsigned_v<T>);
  T value = 0;
  for (std::size_t i = sizeof(T); i-- > 0;) {
    value = static_cast<T>((value << 8U) | static_cast<unsigned char>(bytes[offset + i]));
  }
  return value;
}

template <typename T>
std::string store_le(T value) {
  static_assert(std::is_unsigned_v<T>);
  std::string bytes(sizeof(T), '\0');
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    bytes[i] = static_cast<char>(static_cast<unsigned char>(value >> (8U * i)));
  }
  return bytes;
}

/// `a * b`, or nothing if it does not fit.
inline std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

}  // namespace torchship

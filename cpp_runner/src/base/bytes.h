#pragma once

/// Numbers in bytes, and UTF-8. Internal.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace torchship {

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

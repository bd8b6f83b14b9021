#pragma once

/// JSON from outside, read strictly. Internal.

#include <nlohmann/json.hpp>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace torchship {

/// A syntax error, or a number that is too large.
class JsonSyntaxError : public std::invalid_argument {
 public:
  JsonSyntaxError(const std::string& message, std::size_t position, bool too_large)
      : std::invalid_argument(message), position_(position), too_large_(too_large) {}

  /// How many characters had been read: up to the one that does not fit, or one more.
  std::size_t position() const { return position_; }

  /// Whether what could not be read is a number beyond those of a double.
  bool too_large() const { return too_large_; }

 private:
  std::size_t position_;
  bool too_large_;
};

/// Parses JSON; raises JsonSyntaxError, and std::invalid_argument for a byte order mark, a zero
/// byte, a key that occurs twice, or a nesting deeper than 100.
nlohmann::ordered_json parse_json(std::string_view text);

}  // namespace torchship

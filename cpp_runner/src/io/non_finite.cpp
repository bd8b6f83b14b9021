#include "io/non_finite.h"

#include <algorithm>
#include <limits>

namespace torchship {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// As JSON's own words are: independent of the locale.
char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool is_word_character(char c) {
  return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

}  // namespace

std::optional<double> non_finite_value(std::string_view name) {
  if (name == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (name == "Infinity") return infinity;
  if (name == "-Infinity") return -infinity;
  return std::nullopt;
}

std::size_t non_finite_word(std::string_view text) {
  const std::size_t sign = text.starts_with('+') || text.starts_with('-') ? 1 : 0;
  const std::string_view rest = text.substr(sign);
  const auto end = std::ranges::find_if_not(rest, is_word_character);
  const std::string_view word(rest.begin(), end);
  for (const std::string_view known : {"nan", "inf", "infinity"}) {
    if (std::ranges::equal(word, known, {}, lower)) return sign + word.size();
  }
  return 0;
}

}  // namespace torchship

#include "json_lines.h"

#include <torchship/error.h>

#include "base/parse_json.h"
#include "io/non_finite.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace torchship::app {
namespace {

constexpr std::string_view of_numbers = "0123456789.eE+-";

/// Where the word or number begins that the parser could not read to its end.
std::size_t start_of_word(std::string_view line, std::size_t position) {
  constexpr std::string_view between = " \t\r\n,:[]{}\"";
  std::size_t start = std::min(position, line.size());
  // The parser may have looked one character beyond it.
  if (start > 0 && between.find(line[start - 1]) != std::string_view::npos) --start;
  while (start > 0 && between.find(line[start - 1]) == std::string_view::npos) --start;
  return start;
}

/// What is wrong with the line, if it is a value that JSON has no number for; else empty.
std::string missing_number(std::string_view line, const JsonSyntaxError& error) {
  const std::size_t start = start_of_word(line, error.position());
  const std::string_view rest = line.substr(start);
  const auto said = [&](const std::string& what) {
    return "not JSON: " + what + " (column " + std::to_string(start + 1) +
           "): " + std::string(non_finite_ways);
  };
  if (const std::size_t length = non_finite_word(rest)) {
    return said("JSON has no " + std::string(rest.substr(0, length)));
  }
  if (!error.too_large()) return "";
  const std::string_view number = rest.substr(0, rest.find_first_not_of(of_numbers));
  constexpr std::size_t longest = 40;
  return said(std::string(number.substr(0, longest)) + (number.size() > longest ? "..." : "") +
              " is too large for a double");
}

}  // namespace

nlohmann::json parse_line(std::string_view line) {
  try {
    return parse_json(line);
  } catch (const JsonSyntaxError& error) {
    const std::string missing = missing_number(line, error);
    throw InputError(missing.empty() ? error.what() : missing);
  } catch (const std::invalid_argument& error) {
    throw InputError(error.what());
  }
}

}  // namespace torchship::app

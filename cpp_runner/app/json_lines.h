#pragma once

/// A line of JSON on standard input.

#include <nlohmann/json.hpp>

#include <string_view>

namespace torchship::app {

/// The value of a line. Raises InputError with what is wrong with it; for a NaN, an infinity, or a
/// number beyond those of a double, with what to write instead.
nlohmann::json parse_line(std::string_view line);

}  // namespace torchship::app

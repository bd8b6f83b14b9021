#pragma once

/// Tables, signatures and numbers as people and programs read them.

#include <torchship/manifest.h>

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

namespace torchship::app {

/// Columns as wide as their widest cell, the first row being the header.
std::string table(const std::vector<std::vector<std::string>>& rows);

/// A method as one reads it: `forward(obs: uint8[batch,510], h: float32[batch,128]) -> (...)`.
std::string signature_line(const Method& method);

/// `number`, or null where JSON cannot carry it.
nlohmann::ordered_json finite_or_null(const std::optional<double>& number);

/// Five significant digits: 0.00012346.
std::string short_number(double number);

}  // namespace torchship::app

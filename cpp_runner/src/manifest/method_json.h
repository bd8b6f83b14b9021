#pragma once

/// A method's signature for programs: `inspect --json`, and torchship_archive_describe().

#include <torchship/manifest.h>

#include <nlohmann/json.hpp>

namespace torchship {

/// Name, inputs, outputs with their tolerances, and state. Leaves are told both as people read them
/// ("value") and in parts ("dtype" and "shape", tensors only). Pure.
nlohmann::ordered_json method_json(const Method& method);

}  // namespace torchship

#pragma once

/// A method's inputs as a JSON object. Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <nlohmann/json_fwd.hpp>

namespace torchship {

/// Inputs from an object whose keys are flat names; the values get the dtypes of the signature.
/// Raises InputError.
TensorMap inputs_from_json(const Method& method, const nlohmann::json& object);

}  // namespace torchship

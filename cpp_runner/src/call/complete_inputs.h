#pragma once

/// All inputs of one call, from those that are given and from recurrent state. Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include "call/input_check.h"

#include <c10/core/Device.h>

#include <span>
#include <vector>

namespace torchship {

/// Checks the given inputs and binds their symbols. Adds the state that they do not bring:
/// `carried`, by index in method.state, or, where that is undefined or missing, what the manifest
/// says it starts as. Returns dense tensors on the device. Raises InputError.
TensorMap complete_inputs(const Method& method, const TensorMap& given,
                          std::span<const at::Tensor> carried, c10::Device device,
                          Symbols& symbols);

/// The state that these outputs carry to the next step, by index in method.state; undefined where
/// an output is missing.
std::vector<at::Tensor> carried_state(const Method& method, const TensorMap& outputs);

}  // namespace torchship

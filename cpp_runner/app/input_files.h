#pragma once

/// Files as the inputs of one step.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <filesystem>

namespace torchship::app {

/// Reads .npz or .safetensors (tensors by name), or, for a method with one tensor input, .npy or
/// .png. A PNG is a batch of one: of 8-bit gray, for inputs uint8[batch,height,width],
/// uint8[batch,1,height,width], or uint8[batch,n] with n = side * side, row by row from the top.
/// Its pixels are given as they are, 0 to 255.
///
/// Raises UsageError where the method takes no such file, InputError where the file is no good.
TensorMap read_inputs(const std::filesystem::path& path, const Method& method);

}  // namespace torchship::app

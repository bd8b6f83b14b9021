#pragma once

/// Tensors to bytes and back: npy, npz, safetensors, JSON.
///
/// Readers take untrusted bytes: whatever does not fit is an InputError that says what was wrong,
/// and every tensor read owns its memory. Writers raise EncodingError for values that a format
/// cannot carry. All functions are pure, or touch only the file named; any thread may call them.

#include <torchship/hide_macros.h>

#include <ATen/core/Tensor.h>
#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace torchship {

/// Named tensors, sorted by name; contiguous, on the CPU.
using TensorMap = std::map<std::string, at::Tensor, std::less<>>;

/// numpy's .npy, versions 1 to 3, little-endian, C or Fortran order. Element types of the manifest
/// except bfloat16; a 0-d `U` or `S` array (a string) becomes the uint8 vector of its UTF-8 bytes.
at::Tensor read_npy(std::string_view bytes);
std::string write_npy(const at::Tensor& tensor);

/// numpy's .npz as np.savez and np.savez_compressed write it; written without compression.
TensorMap read_npz(std::string_view bytes);
std::string write_npz(const TensorMap& tensors);

/// The safetensors format; its `__metadata__` is skipped.
TensorMap read_safetensors(std::string_view bytes);
std::string write_safetensors(const TensorMap& tensors);

/// Nested lists of numbers (or one number) to a tensor of `dtype`. Integers must fit and be written
/// as integers; booleans are true and false; in floats the strings "NaN", "Infinity" and
/// "-Infinity" stand for what JSON has no numbers for. Raises InputError naming `what`.
at::Tensor tensor_from_json(const nlohmann::json& value, at::ScalarType dtype,
                            std::string_view what);

/// The same where no dtype is known: booleans, int64, or float32, as torch.tensor takes them.
at::Tensor tensor_from_json(const nlohmann::json& value, std::string_view what);

/// Nested lists that give back exactly the tensor's numbers. NaN, infinities, and an empty tensor
/// of more than a million empty lists raise EncodingError naming `what`.
nlohmann::json tensor_to_json(const at::Tensor& tensor, std::string_view what);

/// A string as the uint8 vector of its UTF-8 bytes.
at::Tensor tensor_from_string(std::string_view text);

/// Reads .npz, .npy (under the name `npy_name`) or .safetensors, by the file's extension.
TensorMap read_tensors(const std::filesystem::path& path, const std::string& npy_name);

/// Whether write_tensors() could write there: the extension, and a folder that may be written to.
/// Raises UsageError or WriteError.
void check_output_path(const std::filesystem::path& path);

/// Writes .npz, .npy (the one tensor there is) or .safetensors, by the file's extension, in one
/// step: another process sees the old file or the whole new one. Raises WriteError.
void write_tensors(const std::filesystem::path& path, const TensorMap& tensors);

}  // namespace torchship

#include <torchship/restore_macros.h>

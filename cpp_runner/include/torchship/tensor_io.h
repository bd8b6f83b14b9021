#pragma once

/// Reads and writes tensors as npy, npz, safetensors and JSON.
///
/// Readers take untrusted bytes: they raise InputError, which says what is wrong. Every tensor that
/// they return owns its memory. Writers raise EncodingError for values that a format cannot
/// represent. No function changes anything but the file that it is given; any thread may call them.

#include <torchship/hide_macros.h>

#include <ATen/core/Tensor.h>
#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace torchship {

/// Tensors by name. Those that this library returns are contiguous and on the CPU.
using TensorMap = std::map<std::string, at::Tensor, std::less<>>;

/// numpy's .npy, versions 1 to 3, little-endian, in C or Fortran order. All dtypes of the manifest
/// except bfloat16. A string (a 0-d array of type `U` or `S`) becomes the uint8 vector of its UTF-8
/// bytes.
at::Tensor read_npy(std::string_view bytes);
std::string write_npy(const at::Tensor& tensor);

/// numpy's .npz, as np.savez and np.savez_compressed write it. Files are written uncompressed.
TensorMap read_npz(std::string_view bytes);
std::string write_npz(const TensorMap& tensors);

/// The safetensors format. Its `__metadata__` is ignored.
TensorMap read_safetensors(std::string_view bytes);
std::string write_safetensors(const TensorMap& tensors);

/// A tensor of `dtype` from nested lists of numbers, or from one number. Integers must be in the
/// dtype's range and be written as integers; booleans are true and false. For floats, the strings
/// "NaN", "Infinity" and "-Infinity" stand for the values that JSON has no numbers for. Raises
/// InputError naming `what`.
at::Tensor tensor_from_json(const nlohmann::json& value, at::ScalarType dtype,
                            std::string_view what);

/// The same if no dtype is known: the tensor is bool, int64 or float32, as torch.tensor chooses.
at::Tensor tensor_from_json(const nlohmann::json& value, std::string_view what);

/// Nested lists from which the tensor's numbers can be restored exactly. Raises EncodingError
/// naming `what` for NaN and infinities, and for an empty tensor of more than a million empty
/// lists.
nlohmann::json tensor_to_json(const at::Tensor& tensor, std::string_view what);

/// A string as the uint8 vector of its UTF-8 bytes.
at::Tensor tensor_from_string(std::string_view text);

/// Reads a file by its extension: .npz, .safetensors, or .npy, whose one tensor gets the name
/// `npy_name`. Raises InputError, and UsageError for another extension.
TensorMap read_tensors(const std::filesystem::path& path, const std::string& npy_name);

/// Raises UsageError if write_tensors() does not know the extension, and WriteError if the folder
/// is missing or not writable.
void check_output_path(const std::filesystem::path& path);

/// Writes a file by its extension: .npz, .safetensors, or .npy, which holds a single tensor. The
/// write is atomic: another process sees either the old file or all of the new one. Raises
/// WriteError, EncodingError, and UsageError for another extension or for more than one tensor as
/// .npy.
void write_tensors(const std::filesystem::path& path, const TensorMap& tensors);

}  // namespace torchship

#include <torchship/restore_macros.h>

#pragma once

/// The dtypes that an archive can carry, and their names in the manifest, in safetensors and in
/// npy. All functions are pure and safe to call from any thread.

#include <torchship/hide_macros.h>

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <string_view>

namespace at {
class Tensor;
}

namespace torchship {

/// One dtype and its names.
struct DType {
  at::ScalarType type;
  std::string_view name;         // in the manifest: "float32"
  std::string_view safetensors;  // "F32"
  std::string_view npy;          // numpy's type character and size, "f4"; empty if numpy has none
};

/// The dtype with this name in the manifest, in safetensors or in npy; nothing if there is none.
std::optional<at::ScalarType> dtype_from_name(std::string_view name);
std::optional<at::ScalarType> dtype_from_safetensors(std::string_view name);
std::optional<at::ScalarType> dtype_from_npy(std::string_view code);

/// The names of a dtype; nothing for one that no archive can carry (complex, quantised).
std::optional<DType> find_dtype(at::ScalarType type);

/// The manifest's name of a dtype. A dtype that no archive can carry has a name too, for messages.
std::string dtype_name(at::ScalarType type);

/// A tensor's dtype and shape, for messages: `float32[1,512]`.
std::string describe(const at::Tensor& tensor);

}  // namespace torchship

#include <torchship/restore_macros.h>

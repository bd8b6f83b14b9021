#pragma once

/// Tensor dtypes under the names that the manifest, safetensors and npy give them.
/// All functions are pure and safe to call from any thread.

#include <torchship/hide_macros.h>

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <string_view>

namespace at {
class Tensor;
}

namespace torchship {

/// One dtype: `npy` is numpy's type character and size ("f4"), empty where numpy has none.
struct DType {
  at::ScalarType type;
  std::string_view name;
  std::string_view safetensors;
  std::string_view npy;
};

/// The dtype of that manifest name ("float32"), safetensors name ("F32") or npy code ("f4").
std::optional<at::ScalarType> dtype_from_name(std::string_view name);
std::optional<at::ScalarType> dtype_from_safetensors(std::string_view name);
std::optional<at::ScalarType> dtype_from_npy(std::string_view code);

/// The table row of a dtype, or nothing for one that no archive can carry (complex, quantised).
std::optional<DType> find_dtype(at::ScalarType type);

/// The manifest's name of a dtype, also of one that no archive can carry.
std::string dtype_name(at::ScalarType type);

/// `float32[1,512]`.
std::string describe(const at::Tensor& tensor);

}  // namespace torchship

#include <torchship/restore_macros.h>

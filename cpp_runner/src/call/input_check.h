#pragma once

/// Inputs against the manifest, before LibTorch sees them. Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <c10/core/Device.h>

#include <map>
#include <optional>
#include <string>

namespace torchship {

/// The sizes that symbols such as `batch` have in one call.
class Symbols {
 public:
  /// Compares a tensor with what its leaf promises, and binds the symbols that are new. Returns
  /// nothing if it fits, else `expected float32[batch,128] with batch=2, got float32[3,128]`.
  std::optional<std::string> mismatch(const Node& leaf, const at::Tensor& tensor);

  std::optional<std::int64_t> find(const std::string& symbol) const;

 private:
  std::map<std::string, std::int64_t, std::less<>> sizes_;
};

/// The leaf of which `name` is an instance, or nullptr.
const Node* find_input(const Method& method, std::string_view name);

/// Raises InputError for a name that the method does not take.
void check_names(const Method& method, const TensorMap& inputs);

/// Checks dtypes and shapes in the manifest's order, and binds the symbols; raises InputError.
void check_inputs(const Method& method, const TensorMap& inputs, Symbols& symbols);

/// The tensor, dense, contiguous and on the device: what LibTorch gets, and what may be read as
/// bytes. Raises InputError for what is no tensor of numbers in memory, or elsewhere than on the
/// CPU or the device.
at::Tensor dense(const Method& method, const std::string& name, const at::Tensor& tensor,
                 c10::Device device);

/// The tensors on the CPU: themselves if they are there.
TensorMap on_cpu(TensorMap tensors);

/// Raises the InputError that says which input is missing.
[[noreturn]] void missing_input(const Method& method, const TensorMap& inputs,
                                const std::string& name);

}  // namespace torchship

#pragma once

/// The inputs of an ordinary call of compiled code: only tensors, given or carried as the code
/// takes them. It only says yes or no. Whatever it refuses takes the general path (native_call.h),
/// which decides and explains. Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include "native/native_code.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace torchship {

/// Immutable; any thread may use it.
class FastBinding {
 public:
  /// Nothing if the method takes anything but tensors.
  static std::optional<FastBinding> make(const Method& method, const NativeMethod& native);

  /// Fills the struct of inputs. State that is neither given nor carried is a null pointer, which
  /// stands for how it starts. False: this is no call for the fast binding.
  bool bind(const TensorMap& given, std::span<const at::Tensor> carried,
            std::span<NativeWord> in) const;

 private:
  /// A tensor's field: its dtype, and for each dimension a size or the field of a size.
  struct Slot {
    struct Dimension {
      std::int64_t size = 0;                  // if it is fixed
      std::optional<std::size_t> field = {};  // of a size, if it is not
    };

    std::string name;
    std::size_t field = 0;
    at::ScalarType dtype = at::kFloat;
    std::vector<Dimension> shape = {};
    std::optional<std::size_t> state = {};  // index in the method's states
  };

  static bool fits(const Slot& slot, const at::Tensor& tensor, std::span<NativeWord> in);

  std::vector<Slot> slots_;
  std::vector<std::size_t> sizes_;  // the fields of sizes
};

}  // namespace torchship

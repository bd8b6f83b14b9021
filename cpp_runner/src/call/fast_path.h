#pragma once

/// The path of an ordinary call: every argument and every output is one tensor, and all inputs are
/// given, dense and contiguous on the CPU, with the right dtype and shape. It only says yes or no.
/// Whatever it refuses takes the general path (call.h), which decides and explains.
/// Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace torchship {

/// Immutable; any thread may use it.
class FastPath {
 public:
  /// The sizes of a call's symbols, by number; `unbound` until a tensor tells.
  using Sizes = c10::SmallVector<std::int64_t, 8>;
  static constexpr std::int64_t unbound = -1;

  /// Nothing where the method takes or returns anything but tensors.
  /// `written`: arguments, by position, that get a copy since the method may overwrite them.
  static std::optional<FastPath> make(const Method& method, const c10::FunctionSchema& schema,
                                      const std::vector<bool>& written);

  Sizes sizes() const { return Sizes(symbols_, unbound); }

  /// Puts the inputs, and the state that they do not bring, on a stack of size(); slot 0, the
  /// module itself, is left alone. False: this is no call for the fast path.
  bool bind(const TensorMap& given, std::span<const at::Tensor> carried, Sizes& sizes,
            std::span<c10::IValue> stack) const;

  /// How many slots a call's stack has.
  std::size_t size() const { return inputs_.size() + 1; }

  /// The outputs by name, contiguous, in memory of their own; nothing where they are not as
  /// promised.
  std::optional<TensorMap> outputs(const c10::IValue& result, Sizes& sizes) const;

 private:
  /// A tensor's place: its dtype, and for each dimension a size or the number of a symbol.
  struct Slot {
    struct Dimension {
      enum class Kind { any, fixed, symbol };
      Kind kind = Kind::any;
      std::int64_t size = 0;  // fixed
      std::size_t symbol = 0;
    };

    std::string name;
    std::optional<at::ScalarType> dtype = {};          // nothing: any
    std::optional<std::vector<Dimension>> shape = {};  // nothing: any
    std::size_t position = 0;                          // in the stack, or among the outputs
    std::optional<std::size_t> state = {};             // inputs: index in the method's states
    bool zeros = false;                                // a state that starts as zeros
    bool written = false;                              // inputs: the method may overwrite it
  };

  class Numbering;

  static bool fits(const Slot& slot, const at::Tensor& tensor, Sizes& sizes);
  static std::optional<at::Tensor> zeros_of(const Slot& slot, const Sizes& sizes);

  std::vector<Slot> inputs_;   // sorted by name, like a TensorMap
  std::vector<Slot> outputs_;  // sorted by name
  bool tuple_ = false;         // whether the outputs are a tuple, or one tensor
  std::size_t symbols_ = 0;
};

}  // namespace torchship

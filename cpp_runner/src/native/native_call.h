#pragma once

/// One method of a compiled archive, prepared. Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include "call/input_check.h"
#include "native/fast_binding.h"
#include "native/native_code.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// Immutable: any thread may call it, each with a workspace of its own.
class NativeCall {
 public:
  /// Raises what NativeSession's constructor raises.
  NativeCall(std::shared_ptr<const NativeCode> code, const std::string& method);

  const Method& method() const { return method_; }

  /// Checks the inputs, adds the state that they do not bring (`carried`, by index in
  /// method().state), and computes the outputs, which are in memory of their own. The workspace
  /// grows as it must. The caller has entered a RuntimeScope.
  TensorMap operator()(const TensorMap& given, std::span<const at::Tensor> carried,
                       std::vector<char>& workspace) const;

 private:
  /// A struct of inputs or outputs.
  using Words = std::vector<NativeWord>;

  TensorMap run(const TensorMap& given, std::span<const at::Tensor> carried,
                std::vector<char>& workspace) const;
  TensorMap compute(const Words& in, std::vector<char>& workspace) const;
  NativeWord word(const NativeInput& field, const TensorMap& inputs, const Symbols& symbols) const;
  at::Tensor new_output(std::size_t index, const NativeWord* in) const;

  std::shared_ptr<const NativeCode> code_;
  const Method& method_;  // the code's
  NativeMethod native_;
  std::optional<FastBinding> fast_;
};

}  // namespace torchship

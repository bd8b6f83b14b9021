#pragma once

/// One method of a loaded module, prepared: what is the same for all of its calls is found out
/// once. Internal.

#include <torchship/manifest.h>
#include <torchship/options.h>
#include <torchship/tensor_io.h>

#include "call/fast_path.h"
#include "call/input_check.h"

#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace torch::jit {
struct Function;
struct Module;
}  // namespace torch::jit

namespace torchship {

/// Immutable: any thread may call it, as far as the module's own methods allow.
class Call {
 public:
  /// `method` is one of the module's, which lies on the device. Raises ArchiveError when the two do
  /// not fit each other.
  Call(std::string model, std::shared_ptr<const torch::jit::Module> module, Method method,
       c10::Device device);

  const std::string& model() const { return model_; }
  const Method& method() const { return method_; }
  c10::Device device() const { return device_; }

  /// Checks the inputs, adds the state that they do not bring (`carried`, by index in
  /// method().state; undefined or missing: as the manifest says it starts), runs the method, checks
  /// the outputs. They are contiguous, in memory of their own, and on the device; neither the
  /// inputs nor the state are written to. The caller has entered a RuntimeScope.
  TensorMap operator()(const TensorMap& given, std::span<const at::Tensor> carried,
                       OutputCheck check) const;

  /// The method's arguments, as `module.get_method(name)(arguments)` takes them: all of them, in
  /// the schema's order. Checked like those of a call.
  std::vector<c10::IValue> arguments(const TensorMap& given) const;

 private:
  TensorMap run(const TensorMap& given, std::span<const at::Tensor> carried,
                OutputCheck check) const;

  struct Prepared {
    std::size_t position = 0;  // in the schema; 0 is the module itself
    c10::TypePtr type;
    std::vector<const Node*> leaves;
  };

  std::vector<c10::IValue> stack_of(const TensorMap& inputs) const;
  TensorMap with_copies(const TensorMap& inputs) const;
  TensorMap completed(const TensorMap& given, std::span<const at::Tensor> carried) const;
  c10::IValue invoke(std::vector<c10::IValue>& stack) const;
  void check_outputs(const TensorMap& inputs, const TensorMap& outputs) const;

  std::string model_;
  std::shared_ptr<c10::DebugInfoBase> printing_;  // the name under which the model prints
  std::shared_ptr<const torch::jit::Module> module_;
  Method method_;
  c10::Device device_;
  torch::jit::Function* function_;  // belongs to the module
  std::vector<Prepared> prepared_;  // by index in method_.inputs
  std::vector<bool> written_;       // by position in the schema: the method may overwrite it
  std::optional<FastPath> fast_;
};

}  // namespace torchship

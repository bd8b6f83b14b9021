#pragma once

/// One method of one archive, run by name.

#include <torchship/archive.h>
#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <nlohmann/json_fwd.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// Inputs and outputs are flat: `obs`, `hidden.0`. Inputs are checked against the manifest before
/// LibTorch sees them, outputs after. One thread at a time; sessions over one module may run in
/// parallel, each with its own state.
class Session {
 public:
  /// Whether outputs that are not as the manifest promises raise OutputError.
  enum class Promises { enforce, ignore };

  /// Raises UsageError when there is no such method.
  Session(const Archive& archive, std::shared_ptr<const torch::jit::Module> module,
          const std::string& method = "forward");
  explicit Session(const Archive& archive, const std::string& method = "forward");

  /// The method's signature; for plain TorchScript the one that its schema tells (`arr_0`, ...).
  const Method& method() const { return method_; }

  /// One call by itself: state that is not given starts as the manifest says; none is kept.
  /// Raises InputError, ModelError (the model itself raised) or OutputError.
  TensorMap run(const TensorMap& inputs, Promises promises = Promises::enforce) const;

  /// One step of a sequence: state that is not given comes from the step before, and is kept for
  /// the next. A step that raises leaves the state as it was.
  TensorMap step(const TensorMap& inputs, Promises promises = Promises::enforce);

  /// Forgets the state: the next step is a first one.
  void reset() { state_.clear(); }

  /// Flat name -> nested lists, number or string, as the signature has them. Raises InputError.
  TensorMap inputs_from_json(const nlohmann::json& object) const;

 private:
  void fill_state(TensorMap& inputs, const TensorMap& carried) const;
  TensorMap call(const TensorMap& inputs, const TensorMap& carried, Promises promises) const;
  void check_outputs(const TensorMap& inputs, const TensorMap& outputs) const;

  std::string model_;
  std::shared_ptr<const torch::jit::Module> module_;
  Method method_;
  TensorMap state_;  // by input name
};

struct Methods {
  std::vector<Method> callable;
  std::vector<std::string> not_callable;  // plain TorchScript: names of those that take objects
};

/// Every method, with its signature if its arguments have a flat form.
Methods methods_of(const Archive& archive);

}  // namespace torchship

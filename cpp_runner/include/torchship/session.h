#pragma once

/// Sessions: each runs one method of one archive.

#include <torchship/hide_macros.h>

#include <torchship/archive.h>
#include <torchship/manifest.h>
#include <torchship/options.h>
#include <torchship/tensor_io.h>

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// Runs one method, with named tensors as inputs and outputs.
///
/// Tensors have flat names (`obs`, `hidden.0`) and the dtypes and shapes of the manifest, such as
/// uint8[batch,510]. They are on the CPU; inputs may have any strides. Inputs are checked against
/// the manifest before the call, outputs after it. `batch` is the number of rows in one call; each
/// row is computed independently of the others.
///
/// A session belongs to one thread at a time. Many sessions of one archive may run on many threads;
/// they share the module, and each has its own recurrent state. A session is cheap to create: make
/// one per game, group of agents or connection. A copy is cheaper still. It continues from the same
/// state independently of the original, so that a program can look ahead or go back.
///
/// Inputs are not copied, and never written to: a model that overwrites them gets a copy. Outputs
/// own their memory or share it with the recurrent state, so clone an output before writing to it.
/// During a call the calling thread has the default floating-point mode; its own mode is restored
/// after it.
class Session {
 public:
  using Promises = OutputCheck;  // former name

  /// A session of one method. For another method, create another session; save_state() and
  /// load_state() move recurrent state between them. Raises UsageError if there is no such method,
  /// and whatever Archive::module() raises.
  explicit Session(const Archive& archive, const std::string& method = "forward");
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  Session(const Session&);
  Session& operator=(const Session&);

  /// The method's signature. For plain TorchScript it is derived from the schema (`arr_0`, ...).
  const Method& method() const;

  /// One call without state from earlier calls: state inputs that are not given start as the
  /// manifest says, and no state is kept. Raises InputError, ModelError if the model itself raises,
  /// OutputError or OutOfMemoryError.
  TensorMap run(const TensorMap& inputs, OutputCheck check = OutputCheck::strict) const;

  /// One step of a sequence: state inputs that are not given come from the previous step, and the
  /// new state is kept for the next one. Raises what run() raises; the state is then unchanged.
  TensorMap step(const TensorMap& inputs, OutputCheck check = OutputCheck::strict);

  /// Discards the state: the next step is the first of a new sequence.
  void reset();

  /// Discards the state of some rows of the batch, for example those of agents that died. `rows`
  /// are indices from 0, in any order; they may repeat. Before the first step this has no effect.
  /// Raises UsageError if the method has no state, or state that does not start as zeros or has no
  /// dimension `batch`; InputError for a row that the state does not have, and then no row has
  /// changed.
  void reset(std::span<const std::int64_t> rows);

  /// A copy of the recurrent state that the next step would use, by input name. Empty before the
  /// first step.
  TensorMap save_state() const;

  /// Makes a copy of `state` the state of the next step; an empty map is the same as reset().
  /// Raises InputError for a name that is not a state input, for a state input that is missing, and
  /// for a dtype or shape that is not the manifest's; the state is then unchanged.
  void load_state(const TensorMap& state);

  /// Inputs from a JSON object whose keys are flat names. The values are nested lists, numbers or
  /// strings, and get the dtypes of the signature. Raises InputError.
  TensorMap inputs_from_json(const nlohmann::json& object) const;

 private:
  std::shared_ptr<const class Call> call_;
  // By index in method().state; undefined before the first step. Copies of the session share these
  // tensors, so they are replaced and never written to.
  std::vector<at::Tensor> state_;
};

/// The methods of an archive.
struct Methods {
  std::vector<Method> callable;
  std::vector<std::string> not_callable;  // methods of plain TorchScript that take objects
};

/// All methods of an archive, with the signatures of those whose arguments are tensors, numbers,
/// strings or containers of these.
Methods methods_of(const Archive& archive);

}  // namespace torchship

#include <torchship/restore_macros.h>

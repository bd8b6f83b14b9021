#pragma once

/// One method of one archive, run by name.

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

/// Inputs and outputs are flat: `obs`, `hidden.0`; tensors of the manifest's dtypes and shapes,
/// such as uint8[batch,510], on the CPU, of any strides. They are checked against the manifest
/// before LibTorch sees them, outputs after. `batch` is the number of rows of one call, 1 for a
/// single one; each row is computed by itself.
///
/// A session belongs to one thread at a time. Many sessions, each with its own recurrent state, may
/// run on many threads over one archive, and share its module. Cheap to make: one per game, agent
/// group or connection. Cheaper to copy, a few references: the copy goes on by itself from the same
/// state, to look ahead or to be able to go back.
///
/// Inputs are read where they lie and never written to: a model that overwrites them gets a copy.
/// Outputs own their memory or share it with the recurrent state: read them, and clone before
/// writing into them. The calling thread's floating-point mode is the default during a call, and
/// then as it was.
class Session {
 public:
  using Promises = OutputCheck;  // its former name

  /// Raises UsageError when there is no such method, ArchiveError when the archive cannot be
  /// loaded. Several methods are several sessions; save_state() and load_state() carry recurrent
  /// state from one to another.
  explicit Session(const Archive& archive, const std::string& method = "forward");
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  Session(const Session&);
  Session& operator=(const Session&);

  /// The method's signature; for plain TorchScript the one that its schema tells (`arr_0`, ...).
  const Method& method() const;

  /// One call by itself: state that is not given starts as the manifest says; none is kept.
  /// Raises InputError, ModelError (the model itself raised), OutputError or OutOfMemoryError.
  TensorMap run(const TensorMap& inputs, OutputCheck check = OutputCheck::strict) const;

  /// One step of a sequence: state that is not given comes from the step before, and is kept for
  /// the next. A step that raises leaves the state as it was.
  TensorMap step(const TensorMap& inputs, OutputCheck check = OutputCheck::strict);

  /// Forgets the state: the next step is a first one.
  void reset();

  /// Lets these rows of the batch start anew, as after the death of an agent, and leaves the others
  /// as they are. Rows count from 0, in any order, and may repeat. Before the first step every row
  /// is new, and nothing is done. Raises UsageError where the method carries no state, or a state
  /// that does not start as zeros or has no dimension `batch`; InputError for a row that the state
  /// does not have, and then no row has changed.
  void reset(std::span<const std::int64_t> rows);

  /// A copy of the recurrent state, by input name: what the next step would take. Empty before the
  /// first step.
  TensorMap save_state() const;

  /// The next step continues from this state, which is copied; an empty one is reset(). Raises
  /// InputError for a name that is not carried, a state that is missing, and dtypes and shapes that
  /// are not the manifest's; the state is then as it was.
  void load_state(const TensorMap& state);

  /// Flat name -> nested lists, number or string, as the signature has them. Raises InputError.
  TensorMap inputs_from_json(const nlohmann::json& object) const;

 private:
  std::shared_ptr<const class Call> call_;
  // By index in method().state; undefined: not carried. Copies of the session share these tensors:
  // they are replaced, never written to.
  std::vector<at::Tensor> state_;
};

struct Methods {
  std::vector<Method> callable;
  std::vector<std::string> not_callable;  // plain TorchScript: names of those that take objects
};

/// Every method, with its signature if its arguments have a flat form.
Methods methods_of(const Archive& archive);

}  // namespace torchship

#include <torchship/restore_macros.h>

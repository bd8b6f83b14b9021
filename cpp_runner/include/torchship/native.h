#pragma once

/// Runs archives in the shared libraries that `torchship compile ARCHIVE --target lib` makes of
/// them: C that needs no LibTorch. They compute on the CPU, on the calling thread.

#include <torchship/hide_macros.h>

#include <torchship/archive.h>
#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace torchship {

/// A compiled archive, loaded. Immutable: any thread may use it. Copies are cheap because they
/// share everything. The library stays loaded until the process ends.
class NativeLibrary {
 public:
  /// Loads the library, which must have been compiled from the archive; this must have been opened
  /// from a file. Loading a library runs its code. If the archive was opened with trusted keys,
  /// `<file>.sig` is checked first, and the bytes that were checked are those that are loaded.
  ///
  /// Raises SignatureError; ArchiveError if the file cannot be loaded, was not made by `torchship
  /// compile`, or was compiled from another archive; and UsageError for a plain TorchScript file,
  /// which cannot be compiled.
  NativeLibrary(const std::filesystem::path& file, const Archive& archive);

 private:
  friend class NativeSession;

  std::shared_ptr<const class NativeCode> code_;
};

/// Runs one method of a compiled archive, with named tensors as inputs and outputs. Inputs,
/// outputs, state and errors are those of a Session (session.h); only the last bits of the outputs
/// may differ. The archive's module is not loaded.
///
/// A session belongs to one thread at a time, and many sessions of one library may run on many
/// threads. It keeps the memory that the calls compute in. A copy continues from the same state.
class NativeSession {
 public:
  /// Raises UsageError if there is no such method, and ArchiveError if the library lacks it.
  explicit NativeSession(const NativeLibrary& library, const std::string& method = "forward");
  ~NativeSession();
  NativeSession(NativeSession&&) noexcept;
  NativeSession& operator=(NativeSession&&) noexcept;
  NativeSession(const NativeSession& other);
  NativeSession& operator=(const NativeSession& other);

  /// The method's signature.
  const Method& method() const;

  /// One call without state from earlier calls, as Session::run(). Raises InputError, ModelError if
  /// the model itself raises, or OutOfMemoryError.
  TensorMap run(const TensorMap& inputs);

  /// One step of a sequence, as Session::step(). Raises what run() raises; the state is then
  /// unchanged.
  TensorMap step(const TensorMap& inputs);

  /// Discards the state: the next step is the first of a new sequence.
  void reset();

  /// Inputs from a JSON object, as Session::inputs_from_json(). Raises InputError.
  TensorMap inputs_from_json(const nlohmann::json& object) const;

 private:
  std::shared_ptr<const class NativeCall> call_;
  std::vector<at::Tensor> state_;  // by index in method().state; undefined before the first step
  std::vector<char> workspace_;
};

}  // namespace torchship

#include <torchship/restore_macros.h>

#pragma once

/// An archive, opened and checked. docs/archive.md, "Reading, in this order", gives the checks and
/// their order.

#include <torchship/hide_macros.h>

#include <torchship/manifest.h>
#include <torchship/options.h>
#include <torchship/signature.h>
#include <torchship/tensor_io.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torch::jit {
struct Module;
}

namespace torchship {

/// One step of a golden case: its inputs, and the outputs that the eager module returned for them.
struct GoldenStep {
  TensorMap inputs;
  TensorMap outputs;
};

/// An archive in memory, such as a resource of the program, an asset of a game engine or a
/// download. The memory must stay valid and unchanged until open() returns; nothing points to it
/// afterwards.
struct ArchiveBytes {
  std::string_view bytes;
  std::string name = "memory";  // for messages; also the name() of a plain TorchScript file
  std::optional<std::string_view> signature = std::nullopt;  // the 64 bytes of its `.sig` file
};

/// One record of the archive's zip.
struct Record {
  std::string name;        // relative to the zip's top folder
  std::uint64_t size = 0;  // bytes, inflated
  std::string sha256;      // of the inflated bytes, 64 hex digits
};

/// An archive that has been read once and checked: its signature (if keys were given), its zip, its
/// manifest, the digest of every record, and its golden cases. All sessions share the one module
/// that LibTorch loads from the same bytes.
///
/// An Archive is immutable, and any thread may use it. Copies are cheap because they share
/// everything. Sessions keep what they need of it, so they may outlive the Archive object.
class Archive {
 public:
  /// Configures the runtime (runtime.h), reads and checks the file, loads it on the device, and
  /// freezes it and warms it up if the options ask for that. Not thread-safe, and no model may run
  /// meanwhile, because some options hold for the whole process.
  ///
  /// Raises SignatureError, FormatError, or ArchiveError naming what is damaged; UsageError for
  /// options that are impossible here, such as a device that does not exist; OperatorError for a
  /// missing custom operator; and whatever the model raises during its warm-up.
  static Archive open(const std::filesystem::path& path, const Options& options = {});

  /// The same for an archive in memory. Also raises UsageError for a signature without trusted keys
  /// that could check it.
  static Archive open(const ArchiveBytes& source, const Options& options = {});

  /// Reads and checks the file, but runs none of its code and leaves the runtime as it is. The
  /// module is loaded with the default options when it is first needed. Raises SignatureError,
  /// FormatError or ArchiveError.
  explicit Archive(const std::filesystem::path& path, const TrustedKeys* keys = nullptr);

  /// The same with the keys in `options`. The module is loaded later, with the other options.
  Archive(const std::filesystem::path& path, const Options& options);

  /// The manifest, or nullptr for a plain TorchScript file, about which nothing can be verified.
  const Manifest* manifest() const;

  /// The manifest's name, or the file's name without its extension.
  const std::string& name() const;

  /// The path that was opened; for an archive in memory, ArchiveBytes::name.
  const std::filesystem::path& path() const;

  /// The archive's size in bytes.
  std::uint64_t file_size() const;

  /// The SHA-256 of the archive's bytes, 64 hex digits. Raises what read_record() raises.
  std::string digest() const;

  /// Whether a trusted key has signed the archive: false if no keys were given.
  bool signature_checked() const;

  /// All records of the zip.
  const std::vector<Record>& records() const;

  /// The steps of each golden case, in the manifest's order; empty for plain TorchScript.
  const std::vector<std::vector<GoldenStep>>& golden() const;

  /// The inflated bytes of a record. The archive's bytes are released when the module is loaded, so
  /// from then on the file is read again. Raises ArchiveError if there is no such record, if the
  /// file has changed since it was opened, or if the archive was opened from memory.
  std::string read_record(std::string_view name) const;

  /// The options that it was opened with.
  const Options& options() const { return *options_; }

  /// The module that every session of this archive runs, loaded once, on the options' device. Its
  /// methods may run on many threads at once if they keep nothing between calls; the exporter
  /// checks that they do not. Raises OperatorError for a missing custom operator, and ArchiveError
  /// if LibTorch cannot load the module.
  std::shared_ptr<const torch::jit::Module> module() const;

 private:
  friend class Session;

  /// A method, prepared once for all sessions.
  std::shared_ptr<const class Call> call(const std::string& method) const;

  Archive(const ArchiveBytes& source, const Options& options);

  /// The file's bytes, read again if they have been released.
  std::shared_ptr<const std::string> file_bytes() const;

  /// Loads the module, and warms it up as the options say.
  void start() const;

  std::shared_ptr<const struct ArchiveContents> contents_;
  std::shared_ptr<const Options> options_;
  std::shared_ptr<class ArchiveModule> module_;
};

}  // namespace torchship

#include <torchship/restore_macros.h>

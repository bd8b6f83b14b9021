#pragma once

/// An archive, opened and checked in the order of docs/archive.md, "Reading, in this order".

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

/// One step of a golden case: the inputs to give and the outputs that the eager module gave.
struct GoldenStep {
  TensorMap inputs;
  TensorMap outputs;
};

/// An archive that lies in memory: a resource of the program, an asset of an engine, a download.
/// Whoever opens it keeps the memory, and leaves it as it is, until open() returns.
struct ArchiveBytes {
  std::string_view bytes;
  std::string name = "memory";  // in messages; plain TorchScript's name
  std::optional<std::string_view> signature = std::nullopt;  // the bytes of its `.sig`, 64
};

struct Record {
  std::string name;  // below the zip's top folder
  std::uint64_t size = 0;
  std::string sha256;
};

/// A file that has been read once and checked: its signature if keys were given, its zip, its
/// manifest, every record's digest, its golden cases; and the module that LibTorch made of the same
/// bytes, one for all sessions. Immutable and cheap to copy (copies share everything); any thread
/// may use it, and it lives as long as a session needs it.
class Archive {
 public:
  /// Sets up the runtime (runtime.h), reads and checks the file, loads it on the device, freezes it
  /// and warms it up as the options say. Raises SignatureError, FormatError or ArchiveError with
  /// what is damaged, UsageError for options that cannot be had (a device that is not there), and
  /// whatever the model raises while it is warmed up. One call at a time, while no model runs.
  static Archive open(const std::filesystem::path& path, const Options& options = {});

  /// Likewise, from memory, of which nothing is kept: there is no file to sign or to read again.
  /// Raises UsageError also for a signature that there are no keys to check with.
  static Archive open(const ArchiveBytes& source, const Options& options = {});

  /// Reads and checks the file alone: no code of it runs, and the runtime is left as it is. The
  /// module is loaded when it is first asked for, with the default options. Raises SignatureError,
  /// FormatError or ArchiveError.
  explicit Archive(const std::filesystem::path& path, const TrustedKeys* keys = nullptr);

  /// Likewise, with the options' keys; the module is loaded as the other options say.
  Archive(const std::filesystem::path& path, const Options& options);

  /// The manifest, or nullptr for a plain TorchScript file, for which nothing vouches.
  const Manifest* manifest() const;

  /// The manifest's name, or the file's name without its extension.
  const std::string& name() const;
  const std::filesystem::path& path() const;
  std::uint64_t file_size() const;
  bool signature_checked() const;
  const std::vector<Record>& records() const;

  /// Steps of each golden case, indexed as in the manifest.
  const std::vector<std::vector<GoldenStep>>& golden() const;

  /// The inflated bytes of a record. Once the module is loaded the file's bytes are no longer kept:
  /// it is read again then. Raises ArchiveError if there is no such record, if the file has changed
  /// since it was opened, or if there is none: the archive came from memory.
  std::string read_record(std::string_view name) const;

  /// How it was opened.
  const Options& options() const { return *options_; }

  /// The module that every session of this archive runs, loaded once, on the options' device. Its
  /// methods may run on many threads at once, as far as they keep nothing from call to call, which
  /// is what the exporter checks. Raises OperatorError when a custom operator is not there, and
  /// ArchiveError when LibTorch cannot load it.
  std::shared_ptr<const torch::jit::Module> module() const;

 private:
  friend class Session;

  /// A method, prepared once for all sessions.
  std::shared_ptr<const class Call> call(const std::string& method) const;

  Archive(const std::filesystem::path& path, const TrustedKeys* keys, const Options& options);
  Archive(const ArchiveBytes& source, const Options& options);

  /// Loads the module, and warms it up as the options say.
  void start() const;

  std::shared_ptr<const struct ArchiveContents> contents_;
  std::shared_ptr<const Options> options_;
  std::shared_ptr<class ArchiveModule> module_;
};

}  // namespace torchship

#include <torchship/restore_macros.h>

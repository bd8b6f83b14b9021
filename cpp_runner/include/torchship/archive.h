#pragma once

/// An archive, opened and checked in the order of docs/archive.md, "Reading, in this order".

#include <torchship/manifest.h>
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

struct Record {
  std::string name;  // below the zip's top folder
  std::uint64_t size = 0;
  std::string sha256;
};

/// A file that has been read once and checked: its signature if keys were given, its zip, its
/// manifest, every record's digest, its golden cases. Immutable and cheap to copy; any thread may
/// use it, and every load() gives a module of its own.
class Archive {
 public:
  /// Raises SignatureError, FormatError or ArchiveError; the message says what is damaged.
  explicit Archive(const std::filesystem::path& path, const TrustedKeys* keys = nullptr);

  /// The manifest, or nullptr for a plain TorchScript file, for which nothing vouches.
  const Manifest* manifest() const { return contents_->manifest ? &*contents_->manifest : nullptr; }

  /// The manifest's name, or the file's name without its extension.
  const std::string& name() const { return contents_->name; }
  const std::filesystem::path& path() const { return contents_->path; }
  std::uint64_t file_size() const { return contents_->bytes.size(); }
  bool signature_checked() const { return contents_->signature_checked; }
  const std::vector<Record>& records() const { return contents_->records; }

  /// Steps of each golden case, indexed as in the manifest.
  const std::vector<std::vector<GoldenStep>>& golden() const { return contents_->golden; }

  /// The inflated bytes of a record; raises ArchiveError if there is none.
  std::string read_record(std::string_view name) const;

  /// Gives the same bytes to LibTorch. Raises ArchiveError when it cannot load them.
  std::shared_ptr<const torch::jit::Module> load() const;

 private:
  struct Contents {
    std::filesystem::path path;
    std::string bytes;
    std::string top_folder;
    std::string name;
    bool signature_checked = false;
    std::optional<Manifest> manifest;
    std::vector<Record> records;
    std::vector<std::vector<GoldenStep>> golden;
  };

  static void read_zip(Contents& contents);
  /// Returns the golden record, if there is one.
  static std::optional<std::string> check_digests(Contents& contents);

  std::shared_ptr<const Contents> contents_;
};

}  // namespace torchship

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/operators.h>

#include "bytes.h"
#include "digest.h"
#include "golden.h"
#include "libtorch.h"
#include "loaded.h"
#include "zip_file.h"

#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>
#include <utility>

namespace torchship {
namespace {

constexpr std::string_view our_records = "extra/torchship/";
constexpr std::string_view manifest_record = "extra/torchship/manifest.json";
constexpr std::string_view golden_record = "extra/torchship/golden.safetensors";

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

std::string sha256(std::string_view bytes) {
  Sha256 digest;
  digest.add(bytes);
  return digest.hex();
}

/// Gives LibTorch the bytes that were checked, not the file that may have changed since.
class MemoryReader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit MemoryReader(std::string_view bytes) : bytes_(bytes) {}

  size_t size() const override { return bytes_.size(); }

  size_t read(uint64_t position, void* buffer, size_t count, const char*) const override {
    if (position >= bytes_.size()) return 0;
    return bytes_.copy(static_cast<char*>(buffer), count, position);
  }

 private:
  std::string_view bytes_;
};

/// The bytes of a record, in memory that LibTorch has made.
class TorchRecord {
 public:
  TorchRecord(at::DataPtr data, std::size_t size) : data_(std::move(data)), size_(size) {}

  std::string_view bytes() const { return {static_cast<const char*>(data_.get()), size_}; }

 private:
  at::DataPtr data_;
  std::size_t size_;
};

/// LibTorch's own zip reader.
class TorchReader {
 public:
  explicit TorchReader(std::string_view bytes)
      : reader_(guarded([&] {
          return std::make_unique<caffe2::serialize::PyTorchStreamReader>(
              std::make_shared<MemoryReader>(bytes));
        })) {}

  TorchRecord read(const std::string& name) const {
    auto [data, size] = guarded([&] { return reader_->getRecord(name); });
    return {std::move(data), size};
  }

 private:
  template <typename Action>
  static auto guarded(const Action& action) -> decltype(action()) {
    try {
      return action();
    } catch (const c10::Error& error) {
      throw ArchiveError("LibTorch cannot read the zip: " +
                         first_line(error.what_without_backtrace()));
    }
  }

  std::unique_ptr<caffe2::serialize::PyTorchStreamReader> reader_;
};

/// Splits `archive/data.pkl` into the top folder and the record's name.
std::pair<std::string, std::string> split_top(const std::string& name) {
  const auto slash = name.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == name.size()) {
    throw ArchiveError("the record '" + name + "' lies in no top folder");
  }
  if (("/" + name + "/").find("/../") != std::string::npos) {
    throw ArchiveError("the record '" + name + "' has '..' in its name");
  }
  return {name.substr(0, slash), name.substr(slash + 1)};
}

}  // namespace

Archive::Archive(const Options& options)
    : options_(std::make_shared<const Options>(options)), loaded_(std::make_shared<Loaded>()) {
  check_libtorch();
}

Archive::Archive(const std::filesystem::path& path, const TrustedKeys* keys, const Options& options)
    : Archive(options) {
  const auto contents = std::make_shared<Contents>();
  auto bytes = read_file(path);
  if (!bytes) {
    throw ArchiveError("cannot read '" + path.string() +
                       "': " + std::generic_category().message(errno));
  }
  contents->path = path;
  loaded_->file = std::make_shared<const std::string>(std::move(*bytes));
  loaded_->bytes = *loaded_->file;
  if (keys != nullptr) {
    keys->check(path, loaded_->bytes);
    contents->signature_checked = true;
  }
  read(*contents, loaded_->bytes);
  contents_ = contents;
}

Archive::Archive(const ArchiveBytes& source, const Options& options) : Archive(options) {
  const auto contents = std::make_shared<Contents>();
  contents->path = source.name;
  contents->in_memory = true;
  loaded_->bytes = source.bytes;
  if (options.trusted_keys) {
    options.trusted_keys->check(source.name, source.bytes, source.signature);
    contents->signature_checked = true;
  } else if (source.signature) {
    throw UsageError("'" + source.name +
                     "': a signature was given, and no trusted keys to check it with");
  }
  read(*contents, loaded_->bytes);
  contents_ = contents;
}

void Archive::read(Contents& contents, std::string_view bytes) {
  contents.file_size = bytes.size();
  const std::string what = "'" + contents.path.string() + "': ";
  try {
    read_zip(contents, bytes);
  } catch (const ZipError& error) {
    throw ArchiveError(what + error.what());
  } catch (const FormatError& error) {
    throw FormatError(what + error.what());
  } catch (const ArchiveError& error) {
    throw ArchiveError(what + error.what());
  }
}

void Archive::read_zip(Contents& contents, std::string_view bytes) {
  const ZipReader zip(bytes);
  if (zip.entries().empty()) throw ArchiveError("it holds no records");
  std::optional<std::string> manifest;
  for (std::size_t i = 0; i < zip.entries().size(); ++i) {
    auto [top, name] = split_top(zip.entries()[i].name);
    if (i > 0 && top != contents.top_folder) {
      throw ArchiveError("it has two top folders, '" + contents.top_folder + "' and '" + top + "'");
    }
    contents.top_folder = top;
    // To its end, whether it is kept or not: that is what compares the CRC-32.
    const bool is_manifest = name == manifest_record;
    if (is_manifest) manifest.emplace();
    Sha256 digest;
    zip.read(i, [&](std::string_view piece) {
      digest.add(piece);
      if (is_manifest) *manifest += piece;
    });
    contents.records.push_back({name, zip.entries()[i].size, digest.hex()});
  }
  contents.name = contents.path.stem().string();
  if (!manifest) {
    // Plain TorchScript, unless the manifest was lost: damage must not pass for "never had one".
    for (const Record& record : contents.records) {
      if (record.name.starts_with(our_records)) {
        throw ArchiveError("it holds the record '" + record.name + "' but no manifest");
      }
    }
    for (const std::string_view needed : {"data.pkl", "constants.pkl"}) {
      if (std::ranges::find(contents.records, needed, &Record::name) == contents.records.end()) {
        throw ArchiveError("not a TorchScript file: it has no 'data.pkl' and 'constants.pkl'");
      }
    }
    return;
  }

  contents.manifest = parse_manifest(*manifest);
  contents.name = contents.manifest->name;
  check_digests(contents, bytes);
  if (contents.golden.size() != contents.manifest->golden.size()) {
    throw ArchiveError("the golden cases are missing: no record '" + std::string(golden_record) +
                       "'");
  }
}

void Archive::check_digests(Contents& contents, std::string_view bytes) {
  // Of what LibTorch's own zip reader returns, since that is what load() will use: in damaged or
  // hostile bytes two zip readers may see two contents (docs/archive.md, "Reading").
  const TorchReader reader(bytes);
  std::optional<TorchRecord> golden;
  const auto& expected = contents.manifest->records;
  for (Record& record : contents.records) {
    if (record.name == manifest_record) continue;
    const auto listed = expected.find(record.name);
    if (listed == expected.end()) {
      throw ArchiveError("the record '" + record.name + "' is not listed in the manifest");
    }
    TorchRecord content = reader.read(record.name);
    const std::string other = std::exchange(record.sha256, sha256(content.bytes()));
    if (listed->second != record.sha256 || other != record.sha256) {
      throw ArchiveError("the record '" + record.name + "' is damaged: its SHA-256 is " +
                         record.sha256 + ", the manifest says " + listed->second);
    }
    if (record.name == golden_record) golden = std::move(content);
  }
  std::set<std::string_view> present;
  for (const Record& record : contents.records) present.insert(record.name);
  for (const auto& listed : expected) {
    if (!present.contains(listed.first)) {
      throw ArchiveError("the record '" + listed.first + "' is missing");
    }
  }
  if (golden) contents.golden = parse_golden_cases(*contents.manifest, golden->bytes());
}

std::string Archive::read_record(std::string_view name) const {
  const auto record = std::ranges::find(contents_->records, name, &Record::name);
  if (record == contents_->records.end()) {
    throw ArchiveError("there is no record '" + std::string(name) + "'");
  }
  const auto changed = [&](const std::string& why) {
    return ArchiveError("'" + path().string() + "' has changed since it was opened: " + why);
  };
  if (contents_->in_memory) {
    throw ArchiveError("'" + path().string() +
                       "' was opened from memory, of which nothing is kept");
  }
  std::shared_ptr<const std::string> bytes;
  {
    const std::lock_guard lock(loaded_->mutex);
    bytes = loaded_->file;
  }
  if (!bytes) {
    auto again = read_file(path());
    if (!again) throw changed(std::generic_category().message(errno));
    bytes = std::make_shared<const std::string>(std::move(*again));
  }
  try {
    const ZipReader zip(*bytes);
    const auto entry = std::ranges::find(zip.entries(), contents_->top_folder + "/" + record->name,
                                         &ZipEntry::name);
    if (entry == zip.entries().end()) throw changed("the record is no longer there");
    std::string content = zip.read(static_cast<std::size_t>(entry - zip.entries().begin()));
    if (sha256(content) != record->sha256) throw changed("the record is another");
    return content;
  } catch (const ZipError& error) {
    throw changed(error.what());
  }
}

std::shared_ptr<torch::jit::Module> Archive::load(std::string_view bytes,
                                                  const std::string& device) const {
  const std::string what = "'" + path().string() + "': ";
  try {
    if (const Manifest* known = manifest()) load_operators(known->custom_ops, options_->operators);
    return std::make_shared<torch::jit::Module>(
        torch::jit::load(std::make_shared<MemoryReader>(bytes), c10::Device(device)));
  } catch (const OperatorError& error) {
    throw OperatorError(what + error.what());
  } catch (const ArchiveError& error) {
    throw ArchiveError(what + error.what());
  } catch (const c10::Error& error) {
    throw ArchiveError(what +
                       "LibTorch cannot load it: " + first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw ArchiveError(what + "LibTorch cannot load it: " + first_line(error.what()));
  }
}

}  // namespace torchship

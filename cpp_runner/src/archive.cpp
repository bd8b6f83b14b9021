#include <torchship/archive.h>
#include <torchship/error.h>

#include "bytes.h"
#include "digest.h"
#include "golden.h"
#include "zip_file.h"

#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace torchship {
namespace {

constexpr std::string_view our_records = "extra/torchship/";
constexpr std::string_view manifest_record = "extra/torchship/manifest.json";
constexpr std::string_view golden_record = "extra/torchship/golden.safetensors";

/// Gives LibTorch the bytes that were checked, not the file that may have changed since.
class MemoryReader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit MemoryReader(std::shared_ptr<const std::string> bytes) : bytes_(std::move(bytes)) {}

  size_t size() const override { return bytes_->size(); }

  size_t read(uint64_t position, void* buffer, size_t count, const char*) const override {
    if (position >= bytes_->size()) return 0;
    return bytes_->copy(static_cast<char*>(buffer), count, position);
  }

 private:
  std::shared_ptr<const std::string> bytes_;
};

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

/// Splits `archive/data.pkl` into the top folder and the record's name.
std::pair<std::string, std::string> split_top(const std::string& name) {
  const auto slash = name.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == name.size()) {
    throw ArchiveError("the record '" + name + "' lies in no top folder");
  }
  if (name.find("..") != std::string::npos) {
    throw ArchiveError("the record '" + name + "' has '..' in its name");
  }
  return {name.substr(0, slash), name.substr(slash + 1)};
}

void check_custom_ops(const Manifest& manifest) {
  for (const std::string& op : manifest.custom_ops) {
    if (torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(op)).empty()) {
      throw ArchiveError("it needs the custom operator '" + op + "', which is not registered here");
    }
  }
}

}  // namespace

Archive::Archive(const std::filesystem::path& path, const TrustedKeys* keys) {
  const auto contents = std::make_shared<Contents>();
  auto bytes = read_file(path);
  if (!bytes) {
    throw ArchiveError("cannot read '" + path.string() +
                       "': " + std::generic_category().message(errno));
  }
  contents->path = path;
  contents->bytes = std::move(*bytes);
  if (keys != nullptr) {
    keys->check(path, contents->bytes);
    contents->signature_checked = true;
  }
  try {
    read_zip(*contents);
  } catch (const ZipError& error) {
    throw ArchiveError("'" + path.string() + "': " + error.what());
  } catch (const FormatError& error) {
    throw FormatError("'" + path.string() + "': " + error.what());
  } catch (const ArchiveError& error) {
    throw ArchiveError("'" + path.string() + "': " + error.what());
  }
  contents_ = contents;
}

void Archive::read_zip(Contents& contents) {
  const ZipReader zip(contents.bytes);
  if (zip.entries().empty()) throw ArchiveError("it holds no records");
  std::optional<std::string> manifest;
  std::optional<std::string> golden;
  for (std::size_t i = 0; i < zip.entries().size(); ++i) {
    auto [top, name] = split_top(zip.entries()[i].name);
    if (i > 0 && top != contents.top_folder) {
      throw ArchiveError("it has two top folders, '" + contents.top_folder + "' and '" + top + "'");
    }
    contents.top_folder = top;
    Sha256 digest;
    const bool keep = name == manifest_record || name == golden_record;
    std::string bytes;
    zip.read(i, [&](std::string_view part) {
      digest.add(part);
      if (keep) bytes += part;
    });
    if (name == manifest_record) manifest = std::move(bytes);
    if (name == golden_record) golden = std::move(bytes);
    contents.records.push_back({std::move(name), zip.entries()[i].size, digest.hex()});
  }
  contents.name = contents.path.stem().string();
  if (!manifest) {
    // Plain TorchScript, unless the manifest was lost: damage must not pass for "never had one".
    for (const Record& record : contents.records) {
      if (record.name.starts_with(our_records)) {
        throw ArchiveError("it holds the record '" + record.name + "' but no manifest");
      }
    }
    return;
  }

  contents.manifest = parse_manifest(*manifest);
  contents.name = contents.manifest->name;
  check_digests(contents);
  if (golden) {
    contents.golden = parse_golden_cases(*contents.manifest, *golden);
  } else if (!contents.manifest->golden.empty()) {
    throw ArchiveError("the golden cases are missing: no record '" + std::string(golden_record) +
                       "'");
  }
}

void Archive::check_digests(const Contents& contents) {
  const auto& expected = contents.manifest->records;
  for (const Record& record : contents.records) {
    if (record.name == manifest_record) continue;
    const auto listed = expected.find(record.name);
    if (listed == expected.end()) {
      throw ArchiveError("the record '" + record.name + "' is not listed in the manifest");
    }
    if (listed->second != record.sha256) {
      throw ArchiveError("the record '" + record.name + "' is damaged: its SHA-256 is " +
                         record.sha256 + ", the manifest says " + listed->second);
    }
  }
  for (const auto& [name, digest] : expected) {
    if (std::ranges::none_of(contents.records, [&](const Record& r) { return r.name == name; })) {
      throw ArchiveError("the record '" + name + "' is missing");
    }
  }
}

std::string Archive::read_record(std::string_view name) const {
  const auto record = std::ranges::find(contents_->records, name, &Record::name);
  if (record == contents_->records.end()) {
    throw ArchiveError("there is no record '" + std::string(name) + "'");
  }
  try {
    return ZipReader(contents_->bytes)
        .read(static_cast<std::size_t>(record - contents_->records.begin()));
  } catch (const ZipError& error) {
    throw ArchiveError(error.what());
  }
}

std::shared_ptr<const torch::jit::Module> Archive::load() const {
  const std::string what = "'" + path().string() + "': ";
  try {
    if (const Manifest* known = manifest()) check_custom_ops(*known);
    // Aliases the contents: they live as long as LibTorch reads from them.
    return std::make_shared<torch::jit::Module>(torch::jit::load(std::make_shared<MemoryReader>(
        std::shared_ptr<const std::string>(contents_, &contents_->bytes))));
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

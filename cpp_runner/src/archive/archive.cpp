#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/runtime.h>

#include "archive/archive_contents.h"
#include "archive/archive_module.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/out_of_memory.h"
#include "call/input_check.h"
#include "io/zip_file.h"
#include "runtime/device.h"
#include "runtime/libtorch.h"
#include "runtime/runtime_scope.h"

#include <algorithm>
#include <new>
#include <utility>

namespace torchship {
namespace {

std::optional<std::string> read_archive(const std::filesystem::path& path) {
  try {
    return read_file(path);
  } catch (const std::bad_alloc& error) {
    throw out_of_memory("reading '" + path.string() + "'", error);
  }
}

void warm_up(const Archive& archive, ArchiveModule& module) {
  const Manifest* manifest = archive.manifest();
  if (manifest == nullptr) {
    throw UsageError("model '" + archive.name() +
                     "' is plain TorchScript: it has no golden cases to warm up with");
  }
  for (const Method& method : manifest->methods) {
    const auto found = std::ranges::find(manifest->golden, method.name, &GoldenCase::method);
    if (found == manifest->golden.end()) continue;
    const auto index = static_cast<std::size_t>(found - manifest->golden.begin());
    const auto call = module.call(method.name);
    const RuntimeScope scope;
    for (int i = 0; i < archive.options().warm_up; ++i) {
      const TensorMap& inputs = archive.golden().at(index).front().inputs;
      static_cast<void>(on_cpu((*call)(inputs, {}, OutputCheck::strict)));
    }
  }
}

ArchiveError changed(const std::filesystem::path& path, const std::string& why) {
  return ArchiveError("'" + path.string() + "' has changed since it was opened: " + why);
}

/// Checks the options that need no archive, and sets up the runtime.
void set_up(const Options& options) {
  check_device(options.device);
  if (options.warm_up < 0) {
    throw UsageError("warm_up: expected 0 or more calls, got " + std::to_string(options.warm_up));
  }
  configure_runtime(options.threads, options.fusion);
}

}  // namespace

Archive Archive::open(const std::filesystem::path& path, const Options& options) {
  set_up(options);
  const Archive archive(path, options);
  archive.start();
  return archive;
}

Archive Archive::open(const ArchiveBytes& source, const Options& options) {
  set_up(options);
  const Archive archive(source, options);
  archive.start();
  return archive;
}

void Archive::start() const {
  static_cast<void>(module());
  if (options_->warm_up > 0) warm_up(*this, *module_);
}

Archive::Archive(const std::filesystem::path& path, const TrustedKeys* keys)
    : Archive(path, Options{.trusted_keys = keys ? std::optional(*keys) : std::nullopt}) {}

Archive::Archive(const std::filesystem::path& path, const Options& options)
    : options_(std::make_shared<const Options>(options)) {
  check_libtorch();
  auto bytes = read_archive(path);
  if (!bytes) throw ArchiveError(cannot_read(path));
  const auto file = std::make_shared<const std::string>(std::move(*bytes));
  if (options.trusted_keys) options.trusted_keys->check(path, *file);
  auto contents = read_contents(*file, path);
  contents.signature_checked = options.trusted_keys.has_value();
  contents_ = std::make_shared<const ArchiveContents>(std::move(contents));
  module_ = std::make_shared<ArchiveModule>(contents_, options_, file, *file);
}

Archive::Archive(const ArchiveBytes& source, const Options& options)
    : options_(std::make_shared<const Options>(options)) {
  check_libtorch();
  if (options.trusted_keys) {
    options.trusted_keys->check(source.name, source.bytes, source.signature);
  } else if (source.signature) {
    throw UsageError("'" + source.name +
                     "': a signature was given, and no trusted keys to check it with");
  }
  auto contents = read_contents(source.bytes, source.name);
  contents.in_memory = true;
  contents.signature_checked = options.trusted_keys.has_value();
  contents_ = std::make_shared<const ArchiveContents>(std::move(contents));
  module_ = std::make_shared<ArchiveModule>(contents_, options_, nullptr, source.bytes);
}

const Manifest* Archive::manifest() const {
  return contents_->manifest ? &*contents_->manifest : nullptr;
}

const std::string& Archive::name() const {
  return contents_->name;
}

const std::filesystem::path& Archive::path() const {
  return contents_->path;
}

std::uint64_t Archive::file_size() const {
  return contents_->file_size;
}

bool Archive::signature_checked() const {
  return contents_->signature_checked;
}

const std::vector<Record>& Archive::records() const {
  return contents_->records;
}

const std::vector<std::vector<GoldenStep>>& Archive::golden() const {
  return contents_->golden;
}

std::string Archive::read_record(std::string_view name) const {
  const auto record = std::ranges::find(contents_->records, name, &Record::name);
  if (record == contents_->records.end()) {
    throw ArchiveError("there is no record '" + std::string(name) + "'");
  }
  const auto bytes = file_bytes();
  try {
    const ZipReader zip(*bytes);
    const auto entry = std::ranges::find(zip.entries(), contents_->top_folder + "/" + record->name,
                                         &ZipEntry::name);
    if (entry == zip.entries().end()) throw changed(path(), "the record is no longer there");
    std::string content = zip.read(static_cast<std::size_t>(entry - zip.entries().begin()));
    if (sha256(content) != record->sha256) throw changed(path(), "the record is another");
    return content;
  } catch (const ZipError& error) {
    throw changed(path(), error.what());
  }
}

std::shared_ptr<const std::string> Archive::file_bytes() const {
  if (contents_->in_memory) {
    throw ArchiveError("'" + path().string() +
                       "' was opened from memory, of which nothing is kept");
  }
  if (auto kept = module_->file()) return kept;
  auto again = read_archive(path());
  if (!again) throw changed(path(), errno_message());
  return std::make_shared<const std::string>(std::move(*again));
}

std::string Archive::digest() const {
  if (const auto kept = module_->file()) return sha256(*kept);
  const auto again = file_bytes();
  const ArchiveContents now = read_contents(*again, path());
  if (!std::ranges::equal(now.records, contents_->records, {}, &Record::sha256, &Record::sha256)) {
    throw changed(path(), "it has other records");
  }
  return sha256(*again);
}

std::shared_ptr<const torch::jit::Module> Archive::module() const {
  return module_->get();
}

std::shared_ptr<const Call> Archive::call(const std::string& method) const {
  return module_->call(method);
}

}  // namespace torchship

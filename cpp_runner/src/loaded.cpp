#include "loaded.h"

#include <torchship/error.h>
#include <torchship/runtime.h>
#include <torchship/session.h>

#include "device.h"
#include "printing.h"

#include <torch/csrc/jit/api/module.h>

#include <algorithm>

namespace torchship {
namespace {

/// Makes constants of the weights; every method stays callable.
std::shared_ptr<torch::jit::Module> frozen(const Archive& archive, torch::jit::Module& module) {
  std::vector<std::string> methods;
  for (const auto& method : module.get_methods()) {
    if (method.name() != "forward") methods.push_back(method.name());
  }
  try {
    module.eval();
    return std::make_shared<torch::jit::Module>(torch::jit::freeze(module, methods));
  } catch (const std::exception& error) {
    const std::string_view text = error.what();
    throw UsageError("model '" + archive.name() +
                     "' cannot be frozen: " + std::string(text.substr(0, text.find('\n'))));
  }
}

void warm_up(const Archive& archive) {
  const Manifest* manifest = archive.manifest();
  if (manifest == nullptr) {
    throw UsageError("model '" + archive.name() +
                     "' is plain TorchScript: it has no golden cases to warm up with");
  }
  for (const Method& method : manifest->methods) {
    const auto found = std::ranges::find(manifest->golden, method.name, &GoldenCase::method);
    if (found == manifest->golden.end()) continue;
    const auto index = static_cast<std::size_t>(found - manifest->golden.begin());
    const Session session(archive, method.name);
    for (int i = 0; i < archive.options().warm_up; ++i) {
      static_cast<void>(session.run(archive.golden().at(index).front().inputs));
    }
  }
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

Archive::Archive(const std::filesystem::path& path, const TrustedKeys* keys)
    : Archive(path, keys, Options{}) {}

Archive::Archive(const std::filesystem::path& path, const Options& options)
    : Archive(path, options.trusted_keys ? &*options.trusted_keys : nullptr, options) {}

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
  if (options_->warm_up > 0) warm_up(*this);
}

std::shared_ptr<const torch::jit::Module> Archive::module() const {
  const std::lock_guard lock(loaded_->mutex);
  if (!loaded_->module) {
    const Printing printing(
        printing_as(name()));  // a module may run code as it is loaded or frozen
    auto module = load(loaded_->bytes, options_->device);
    loaded_->module = options_->freeze ? frozen(*this, *module) : module;
    loaded_->bytes = {};
    loaded_->file.reset();  // as large as the weights, which are in the module now
  }
  return loaded_->module;
}

}  // namespace torchship

#include "archive/archive_module.h"

#include <torchship/error.h>
#include <torchship/operators.h>
#include <torchship/runtime.h>

#include "archive/torch_reader.h"
#include "base/first_line.h"
#include "base/floating_point.h"
#include "base/out_of_memory.h"
#include "call/methods.h"
#include "runtime/printing.h"
#include "runtime/threads.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <utility>
#include <vector>

namespace torchship {
namespace {

/// Makes constants of the weights; every method stays callable.
std::shared_ptr<torch::jit::Module> frozen(const std::string& name, torch::jit::Module& module) {
  std::vector<std::string> methods;
  for (const auto& method : module.get_methods()) {
    if (method.name() != "forward") methods.push_back(method.name());
  }
  try {
    module.eval();
    return std::make_shared<torch::jit::Module>(torch::jit::freeze(module, methods));
  } catch (const std::exception& error) {
    if (says_out_of_memory(error)) throw out_of_memory("model '" + name + "'", error);
    throw UsageError("model '" + name + "' cannot be frozen: " + first_line(error.what()));
  }
}

}  // namespace

ArchiveModule::ArchiveModule(std::shared_ptr<const ArchiveContents> contents,
                             std::shared_ptr<const Options> options,
                             std::shared_ptr<const std::string> file, std::string_view bytes)
    : contents_(std::move(contents)),
      options_(std::move(options)),
      file_(std::move(file)),
      bytes_(bytes) {}

std::shared_ptr<const torch::jit::Module> ArchiveModule::get() {
  const DefaultFloatingPoint mode;  // code of the archive may run, and libraries set modes
  if (!threads_are_wanted()) configure_runtime(options_->threads, options_->fusion);
  const std::lock_guard lock(mutex_);
  if (!module_) {
    // A module may run code as it is loaded or frozen.
    const Printing printing(printing_as(contents_->name));
    auto module = load();
    module_ = options_->freeze ? frozen(contents_->name, *module) : module;
    bytes_ = {};
    file_.reset();  // as large as the weights, which are in the module now
  }
  return module_;
}

std::shared_ptr<const Call> ArchiveModule::call(const std::string& method) {
  {
    const std::lock_guard lock(mutex_);
    const auto known = calls_.find(method);
    if (known != calls_.end()) return known->second;
  }
  const DefaultFloatingPoint mode;
  const auto module = get();
  const Manifest* manifest = contents_->manifest ? &*contents_->manifest : nullptr;
  const auto made = std::make_shared<const Call>(
      contents_->name, module, find_method(contents_->name, manifest, *module, method),
      c10::Device(options_->device));
  const std::lock_guard lock(mutex_);
  return calls_.try_emplace(method, made).first->second;
}

std::shared_ptr<const std::string> ArchiveModule::file() {
  const std::lock_guard lock(mutex_);
  return file_;
}

std::shared_ptr<torch::jit::Module> ArchiveModule::load() const {
  const std::string what = "'" + contents_->path.string() + "': ";
  try {
    if (contents_->manifest) load_operators(contents_->manifest->custom_ops, options_->operators);
    return std::make_shared<torch::jit::Module>(
        torch::jit::load(std::make_shared<MemoryReader>(bytes_), c10::Device(options_->device)));
  } catch (const OperatorError& error) {
    throw OperatorError(what + error.what());
  } catch (const ArchiveError& error) {
    throw ArchiveError(what + error.what());
  } catch (const OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    if (says_out_of_memory(error)) throw out_of_memory(what + "loading it", error);
    throw ArchiveError(what +
                       "LibTorch cannot load it: " + first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    if (says_out_of_memory(error)) throw out_of_memory(what + "loading it", error);
    throw ArchiveError(what + "LibTorch cannot load it: " + first_line(error.what()));
  }
}

}  // namespace torchship

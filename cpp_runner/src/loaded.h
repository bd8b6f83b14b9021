#pragma once

/// The module of an archive, made when it is first needed. Internal.

#include <torchship/archive.h>

#include <memory>
#include <mutex>

namespace torchship {

struct Archive::Loaded {
  std::mutex mutex;  // of the first call: one thread loads, the others wait for it
  std::shared_ptr<const torch::jit::Module> module;
};

}  // namespace torchship

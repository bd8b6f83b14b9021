#pragma once

/// The module of an archive, made when it is first needed, and until then the bytes that it will be
/// made of. Internal.

#include <torchship/archive.h>

#include <memory>
#include <mutex>
#include <string>

namespace torchship {

struct Archive::Loaded {
  std::mutex mutex;  // of the first call: one thread loads, the others wait for it
  std::shared_ptr<const torch::jit::Module> module;
  std::shared_ptr<const std::string> bytes;  // the file's, as checked; gone once there is a module
};

}  // namespace torchship

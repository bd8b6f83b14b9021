#pragma once

/// The module of an archive, made when it is first needed, and until then the bytes that it will be
/// made of. Internal.

#include <torchship/archive.h>

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace torchship {

struct Archive::Loaded {
  std::mutex mutex;  // of the first call: one thread loads, the others wait for it
  std::shared_ptr<const torch::jit::Module> module;

  // What was checked, until there is a module: the file's, or memory of whoever opened it.
  std::shared_ptr<const std::string> file;
  std::string_view bytes;
};

}  // namespace torchship

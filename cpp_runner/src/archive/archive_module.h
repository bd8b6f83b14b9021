#pragma once

/// The module of an archive, made when it is first needed, and until then the bytes that it will be
/// made of. Internal.

#include <torchship/options.h>

#include "archive/archive_contents.h"
#include "call/call.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace torchship {

/// One for all copies of an archive. Any thread may use it: the first to need the module loads it,
/// and the others wait for it.
class ArchiveModule {
 public:
  /// `bytes` were checked. They lie in `file`, or, where that is null, in memory of whoever opened
  /// the archive, which is kept until get() was called.
  ArchiveModule(std::shared_ptr<const ArchiveContents> contents,
                std::shared_ptr<const Options> options, std::shared_ptr<const std::string> file,
                std::string_view bytes);

  /// The module, loaded and frozen as the options say. Raises OperatorError, ArchiveError when
  /// LibTorch cannot load it, OutOfMemoryError.
  std::shared_ptr<const torch::jit::Module> get();

  /// A method, prepared once. Raises UsageError when there is no such method.
  std::shared_ptr<const Call> call(const std::string& method);

  /// The file's bytes; null once there is a module, which has the weights.
  std::shared_ptr<const std::string> file();

 private:
  std::shared_ptr<torch::jit::Module> load() const;

  std::shared_ptr<const ArchiveContents> contents_;
  std::shared_ptr<const Options> options_;

  std::mutex mutex_;  // of what follows
  std::shared_ptr<const std::string> file_;
  std::string_view bytes_;
  std::shared_ptr<const torch::jit::Module> module_;
  std::map<std::string, std::shared_ptr<const Call>> calls_;  // by method
};

}  // namespace torchship

#pragma once

/// What a model prints goes to standard error under the model's name, `moba: text`. Internal.

#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>
#include <string>
#include <string_view>

namespace torchship {

/// The name under which a model prints. Made once for a model, since it is not cheap. The first
/// call installs our print handler. LibTorch has only one, so ours passes on to the previous
/// handler what was not printed by a model of ours.
std::shared_ptr<c10::DebugInfoBase> printing_as(const std::string& model);

/// While it lives, what TorchScript prints or warns of on this thread, and in the branches that it
/// forks from here, is the model's. May be nested.
class Printing {
 public:
  explicit Printing(std::shared_ptr<c10::DebugInfoBase> model);

 private:
  c10::DebugInfoGuard model_;
  c10::WarningUtils::WarningHandlerGuard warnings_;
};

/// The lines that a printed text makes in a log: each under the model's name, what a terminal or
/// the reader of a log could take for something else escaped, very long ones cut into several.
std::string log_lines(std::string_view model, std::string_view text);

}  // namespace torchship

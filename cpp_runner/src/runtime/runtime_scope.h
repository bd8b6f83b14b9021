#pragma once

/// What holds while a model runs, whatever the program around us has set. Internal.

#include "base/floating_point.h"
#include "runtime/threads.h"

#include <c10/core/InferenceMode.h>

namespace torchship {

/// While it lives, the calling thread is set up for a model. Inference mode is not only for speed:
/// the Python runtimes use it too, and it leaves no autograd graph in carried state.
class RuntimeScope {
 public:
  RuntimeScope() { use_wanted_threads(); }

 private:
  DefaultFloatingPoint floating_point_;
  c10::InferenceMode inference_;
};

}  // namespace torchship

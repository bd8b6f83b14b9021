#pragma once

/// What holds while a model runs, whatever the program around us has set. Internal.

#include "base/floating_point.h"
#include "runtime/threads.h"

#include <c10/core/InferenceMode.h>

namespace torchship {

/// The calling thread is set up for a model while this lives. Inference mode is not for speed
/// alone: it is the mode of the Python runtimes, and leaves no autograd graph in carried state.
class RuntimeScope {
 public:
  RuntimeScope() { use_wanted_threads(); }

 private:
  DefaultFloatingPoint floating_point_;
  c10::InferenceMode inference_;
};

}  // namespace torchship

#pragma once

#include "common_options.h"

namespace torchship::app {

/// Adds `torchship-runner run`, which sets `action` when it is chosen.
void add_run(CLI::App& program, Action& action);

}  // namespace torchship::app

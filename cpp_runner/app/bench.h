#pragma once

#include "common_options.h"

namespace torchship::app {

/// Adds `torchship-runner bench`, which sets `action` when it is chosen.
void add_bench(CLI::App& program, Action& action);

}  // namespace torchship::app

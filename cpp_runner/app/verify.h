#pragma once

#include "common_options.h"

namespace torchship::app {

/// Adds `torchship-runner verify`, which sets `action` when it is chosen.
void add_verify(CLI::App& program, Action& action);

}  // namespace torchship::app

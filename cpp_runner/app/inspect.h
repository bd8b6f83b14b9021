#pragma once

#include "common_options.h"

namespace torchship::app {

/// Adds `torchship-runner inspect`, which sets `action` when it is chosen.
void add_inspect(CLI::App& program, Action& action);

}  // namespace torchship::app

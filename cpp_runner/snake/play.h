#pragma once

#include "app/common_options.h"

namespace torchship::snake {

/// Adds `torchship-runner play`, which sets `action` when it is chosen.
void add_play(CLI::App& program, app::Action& action);

}  // namespace torchship::snake

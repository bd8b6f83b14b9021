#pragma once

/// The arguments that every subcommand takes, and what a subcommand is.

#include <torchship/archive.h>
#include <torchship/error.h>

#include <CLI/CLI.hpp>

#include <functional>
#include <string>
#include <vector>

namespace torchship::app {

/// What the chosen subcommand will do; its exceptions reach main.
using Action = std::function<ExitCode()>;

struct CommonOptions {
  std::string archive;
  std::string trusted_keys;
  std::vector<std::string> operators;
  int threads = 1;

  void add_to(CLI::App& command, bool with_threads = true);

  /// Sets up the runtime and opens the archive, its signature checked if there are trusted keys;
  /// without any it says so, once, on stderr.
  Archive open() const;
};

}  // namespace torchship::app

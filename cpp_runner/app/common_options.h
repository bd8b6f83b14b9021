#pragma once

/// The arguments that every subcommand takes, and what a subcommand is.

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/native.h>

#include <CLI/CLI.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace torchship::app {

/// What the chosen subcommand will do; its exceptions reach main.
using Action = std::function<ExitCode()>;

struct CommonOptions {
  std::string archive;
  std::string trusted_keys;
  std::vector<std::string> operators;
  std::string native;
  int threads = 1;

  void add_to(CLI::App& command, bool with_threads = true);

  /// Adds --native, with what the command does with the library.
  void add_native_to(CLI::App& command, const std::string& use);

  /// Sets up the runtime and opens the archive, its signature checked if there are trusted keys;
  /// without any it says so, once, on stderr.
  Archive open() const;

  /// The compiled archive, if one was given.
  std::optional<NativeLibrary> open_native(const Archive& opened) const;
};

}  // namespace torchship::app

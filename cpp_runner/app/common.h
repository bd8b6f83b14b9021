#pragma once

/// What the subcommands share. The program is single-threaded outside LibTorch.

#include <torchship/archive.h>
#include <torchship/error.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace torchship::app {

/// What the chosen subcommand will do; its exceptions reach main.
using Action = std::function<ExitCode()>;

/// Each adds its subcommand, which sets `action` when it is chosen.
void add_inspect(CLI::App& program, Action& action);
void add_verify(CLI::App& program, Action& action);
void add_run(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);
void add_play(CLI::App& program, Action& action);

/// The arguments that every subcommand takes.
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

/// Writes to standard output; raises WriteError when it cannot be written to. That its reader has
/// gone (`inspect x.pt | head -1`) is no error: the rest is written to nobody.
void print(std::string_view text);

/// Keeps standard output for print(): what anything else in this process writes there (a library of
/// operators, for one) goes to standard error from now on, and never among the answers.
void keep_standard_output();

/// Asks the file under print() whether all of it has arrived: some, on a network, say so only when
/// they are closed. Raises WriteError. What is printed later is still written.
void close_output();

/// The descriptor that print() writes to.
int output_descriptor();

/// Whether print() met a reader that has gone: who goes on writing may stop.
bool reader_is_gone();

/// Columns as wide as their widest cell, the first row being the header.
std::string table(const std::vector<std::vector<std::string>>& rows);

/// A method as one reads it: `forward(obs: uint8[batch,510], h: float32[batch,128]) -> (...)`.
std::string signature_line(const Method& method);

/// `number`, or null where it is none that JSON can carry.
nlohmann::ordered_json finite_or_null(const std::optional<double>& number);

/// Five significant digits: 0.00012346.
std::string short_number(double number);

}  // namespace torchship::app

#include "base/out_of_memory.h"
#include "bench.h"
#include "common_options.h"
#include "inspect.h"
#include "malloc_thresholds.h"
#include "output.h"
#include "run.h"
#include "snake/play.h"
#include "verify.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <string_view>

namespace {

using torchship::ExitCode;

/// Reports an error on stderr, and, where the user asked for JSON, on standard output too.
int refuse(bool json, std::string_view kind, const std::string& message, ExitCode exit_code) {
  std::fprintf(stderr, "torchship-runner: error: %s\n", message.c_str());
  if (json) {
    const nlohmann::ordered_json error{{"error", message}, {"code", kind}};
    const auto lenient = nlohmann::ordered_json::error_handler_t::replace;  // a file's name may be
    try {                                                                   // no UTF-8
      torchship::app::print(error.dump(-1, ' ', false, lenient) + "\n");
    } catch (const torchship::WriteError&) {
      // Said on stderr already.
    }
  }
  return static_cast<int>(exit_code);
}

/// The first argument that is no option: where no subcommand was found, a misspelt one.
std::string first_word(std::span<char*> arguments) {
  const auto word = std::ranges::find_if(arguments, [](const char* text) { return *text != '-'; });
  return word == arguments.end() ? "" : *word;
}

/// Prints what --help asks for.
int show(const std::string& help) {
  try {
    torchship::app::print(help);
    torchship::app::close_output();
    return static_cast<int>(ExitCode::agreed);
  } catch (const torchship::WriteError& error) {
    return refuse(false, error.code(), error.what(), error.exit_code());
  }
}

/// The process's work; its exit code.
int run(int argc, char** argv) {
  using namespace torchship;
  CLI::App program(
      "Runs and checks torchship archives without Python.\n"
      "Exit codes: 0 agreed or done, 1 mismatch, 2 bad usage, 3 bad archive, 4 bad input, 5 out of "
      "memory.",
      "torchship-runner");
  program.footer(
      "Each command's --help has examples. The archives are made by `torchship script`:\n"
      "  torchship script fizzbuzz -o fizzbuzz.pt\n"
      "  torchship-runner verify fizzbuzz.pt");
  app::Action action;
  program.require_subcommand(1);
  app::add_inspect(program, action);
  app::add_verify(program, action);
  app::add_run(program, action);
  app::add_bench(program, action);
  snake::add_play(program, action);

  const std::span arguments(argv + 1, argc > 0 ? static_cast<std::size_t>(argc - 1) : 0);
  // Looked for by hand: bad usage is answered in JSON too.
  const bool json = std::ranges::any_of(arguments, [](std::string_view argument) {
    return argument == "--json" || argument == "--trace";
  });
  // The one place where exceptions become exit codes.
  try {
    program.parse(argc, argv);
    app::keep_standard_output();
    const ExitCode code = action();
    app::close_output();
    return static_cast<int>(code);
  } catch (const CLI::CallForHelp&) {
    return show(program.help());
  } catch (const CLI::CallForAllHelp&) {
    return show(program.help("", CLI::AppFormatMode::All));
  } catch (const CLI::ParseError& error) {
    const std::string unknown = program.get_subcommands().empty() ? first_word(arguments) : "";
    const std::string message =
        unknown.empty()
            ? error.what()
            : "there is no command '" + unknown + "': it is inspect, verify, run, bench or play";
    const int code = refuse(json, "usage", message, ExitCode::bad_usage);
    std::fputs("Run with --help for more information.\n", stderr);
    return code;
  } catch (const Error& error) {
    return refuse(json, error.code(), error.what(), error.exit_code());
  } catch (const std::exception& error) {
    if (says_out_of_memory(error)) {
      return refuse(json, "out_of_memory", "out of memory", ExitCode::out_of_memory);
    }
    return refuse(json, "unexpected", error.what(), ExitCode::bad_usage);
  }
}

}  // namespace

int main(int argc, char** argv) {
  torchship::app::raise_malloc_thresholds();
  std::signal(SIGPIPE, SIG_IGN);  // print() handles a reader that has closed the pipe
  const int code = run(argc, argv);
  // Profilers and leak checkers write their reports when a process ends in the usual way.
  if (std::getenv("TORCHSHIP_TEARDOWN") != nullptr) return code;
  // All answers are written. Destroying LibTorch's static objects would take a third of a short
  // run, and nothing uses the memory that it frees.
  std::cout.flush();
  std::fflush(nullptr);
  std::_Exit(code);
}

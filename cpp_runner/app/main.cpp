#include "common.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <string_view>

namespace {

using torchship::ExitCode;

/// Answers the shell on stderr, and where the user asked for JSON, a program on standard output.
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

}  // namespace

int main(int argc, char** argv) {
  using namespace torchship;
  std::signal(SIGPIPE, SIG_IGN);  // print() sees to a reader that has gone
  CLI::App program(
      "Runs and checks torchship archives without Python.\n"
      "Exit codes: 0 agreed or done, 1 mismatch, 2 bad usage, 3 bad archive, 4 bad input.",
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
  app::add_play(program, action);

  const std::span arguments(argv + 1, argc > 0 ? static_cast<std::size_t>(argc - 1) : 0);
  // Looked for by hand: bad usage is answered in JSON too.
  const bool json = std::ranges::any_of(arguments, [](std::string_view argument) {
    return argument == "--json" || argument == "--trace";
  });
  // The one place where exceptions become exit codes.
  try {
    program.parse(argc, argv);
    app::keep_standard_output();
    return static_cast<int>(action());
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help
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
    return refuse(json, "unexpected", error.what(), ExitCode::bad_usage);
  }
}

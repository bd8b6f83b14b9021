#include "common.h"

#include <cstdio>
#include <exception>
#include <string>

namespace {

int code(torchship::ExitCode exit_code) {
  return static_cast<int>(exit_code);
}

void report(const char* message) {
  std::fprintf(stderr, "torchship-runner: error: %s\n", message);
}

/// The first argument that is no option: where no subcommand was found, a misspelt one.
std::string first_word(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (*argv[i] != '-') return argv[i];
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  using namespace torchship;
  CLI::App program(
      "Runs and checks torchship archives without Python.\n"
      "Exit codes: 0 agreed or done, 1 mismatch, 2 bad usage, 3 bad archive, 4 bad input.",
      "torchship-runner");
  app::Action action;
  program.require_subcommand(1);
  app::add_inspect(program, action);
  app::add_verify(program, action);
  app::add_run(program, action);
  app::add_bench(program, action);

  // The one place where exceptions become exit codes.
  try {
    program.parse(argc, argv);
    return code(action());
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help
    const std::string unknown = program.get_subcommands().empty() ? first_word(argc, argv) : "";
    report(unknown.empty()
               ? error.what()
               : ("there is no command '" + unknown + "': it is inspect, verify, run or bench")
                     .c_str());
    std::fputs("Run with --help for more information.\n", stderr);
    return code(ExitCode::bad_usage);
  } catch (const Error& error) {
    report(error.what());
    return code(error.exit_code());
  } catch (const std::exception& error) {
    report(error.what());
    return code(ExitCode::bad_usage);
  }
}

#pragma once

/// Runs the real binary.

#include "support.h"

#include <sys/wait.h>

namespace torchship::testing {

struct Done {
  int code = -1;
  std::string out;
  std::string err;
};

/// Runs the binary through the shell. In `arguments`, `@name` stands for the path of an artefact.
inline Done runner(std::string arguments, const std::string& input = "") {
  const TemporaryFolder folder;
  for (auto at = arguments.find('@'); at != std::string::npos; at = arguments.find('@')) {
    arguments.replace(at, 1, artefact("").string());
  }
  write_bytes(folder / "in", input);
  const std::string command = "'" + from_environment("TORCHSHIP_RUNNER").string() + "' " +
                              arguments + " < " + (folder / "in").string() + " > " +
                              (folder / "out").string() + " 2> " + (folder / "err").string();
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, bytes_of(folder / "out"),
          bytes_of(folder / "err")};
}

}  // namespace torchship::testing

#include "common_options.h"

#include <torchship/runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <sstream>

namespace torchship::app {
namespace {

/// The folders in TORCHSHIP_OPERATORS, separated as those of PATH are; empty ones do not count.
std::vector<std::string> folders_of_environment() {
  const char* value = std::getenv("TORCHSHIP_OPERATORS");
  std::istringstream text(value == nullptr ? "" : value);
  std::vector<std::string> folders;
  for (std::string folder; std::getline(text, folder, ':');) {
    if (!folder.empty()) folders.push_back(folder);
  }
  return folders;
}

}  // namespace

void CommonOptions::add_to(CLI::App& command, bool with_threads) {
  command.add_option("archive", archive, "The archive, <name>.pt")->required();
  command.add_option("--trusted-keys", trusted_keys,
                     "PEM file of Ed25519 public keys; the archive must be signed by one of them");
  command
      .add_option("--operators", operators,
                  "A folder of operator libraries, beside TORCHSHIP_OPERATORS; may be repeated")
      ->type_name("DIR")
      ->allow_extra_args(false);
  if (with_threads) {
    command.add_option("--threads", threads, "Threads inside an operator")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
  }
}

void CommonOptions::add_native_to(CLI::App& command, const std::string& use) {
  command
      .add_option("--native", native,
                  use +
                      " the library that `torchship compile ARCHIVE --target lib` made of the "
                      "archive; with --trusted-keys it must be signed as well")
      ->type_name("FILE");
}

std::optional<NativeLibrary> CommonOptions::open_native(const Archive& opened) const {
  if (native.empty()) return std::nullopt;
  return NativeLibrary(native, opened);
}

Archive CommonOptions::open() const {
  configure_runtime(threads);
  Options options;
  options.threads = threads;
  options.operators.assign(operators.begin(), operators.end());
  std::ranges::copy(folders_of_environment(), std::back_inserter(options.operators));
  if (trusted_keys.empty()) {
    std::fputs("torchship-runner: no trusted keys: the archive's signature was not checked\n",
               stderr);
  } else {
    options.trusted_keys.emplace(trusted_keys);
  }
  return Archive(archive, options);
}

}  // namespace torchship::app

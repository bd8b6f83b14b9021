#include "common.h"

#include <torchship/dtype.h>
#include <torchship/runtime.h>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <iterator>
#include <sstream>
#include <system_error>

namespace torchship::app {
namespace {

bool reader_gone = false;
std::FILE* output = stdout;

[[noreturn]] void cannot_write() {
  throw WriteError("cannot write to standard output: " + std::generic_category().message(errno));
}

/// Gives descriptors 0 to 2 to nothing where they are closed: the next file to be opened would get
/// one of them, and what is meant for standard error would be written into it.
void occupy_standard_descriptors() {
  for (int opened = 0; opened >= 0 && opened <= STDERR_FILENO;) {
    opened = ::open("/dev/null", O_RDONLY);  // writing to it fails, as to a closed descriptor
    if (opened > STDERR_FILENO) ::close(opened);
  }
}

std::string node_text(const Node& node) {
  const auto joined = [&node](const auto& part) {
    std::string text;
    for (std::size_t i = 0; i < node.items.size(); ++i) text += (i > 0 ? ", " : "") + part(i);
    return text;
  };
  const auto item = [&node](std::size_t i) { return node_text(node.items[i]); };
  switch (node.kind) {
    case Node::Kind::tensor:
      return describe(node);
    case Node::Kind::integer:
      return "int";
    case Node::Kind::real:
      return "float";
    case Node::Kind::boolean:
      return "bool";
    case Node::Kind::string:
      return "str";
    case Node::Kind::tuple:
      return "(" + joined(item) + ")";
    case Node::Kind::list:
      return "[" + joined(item) + (node.variadic ? ", ...]" : "]");
    case Node::Kind::dict:
      return "{" + joined([&](std::size_t i) {
               return (node.variadic ? "*" : node.keys[i]) + ": " + item(i);
             }) +
             "}";
    case Node::Kind::optional:
      return item(0) + "?";
    case Node::Kind::none:
      break;
  }
  return "None";
}

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

/// Outputs by their flat names: `logits: float32[batch,23], h: float32[batch,128]`.
std::string outputs_text(const Method& method) {
  std::string text;
  for (const Node* leaf : leaves(method.outputs)) {
    text += (text.empty() ? "" : ", ") + leaf->name + ": " + describe(*leaf);
  }
  return text;
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

void print(std::string_view text) {
  if (reader_gone) return;
  if (std::fwrite(text.data(), 1, text.size(), output) == text.size() && std::fflush(output) == 0) {
    return;
  }
  if (errno != EPIPE) cannot_write();
  reader_gone = true;
}

void close_output() {
  const int copy = ::dup(output_descriptor());
  if (copy >= 0 && ::close(copy) != 0) cannot_write();
}

void keep_standard_output() {
  occupy_standard_descriptors();
  const int kept = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  std::FILE* stream = kept < 0 ? nullptr : ::fdopen(kept, "w");
  if (stream == nullptr || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    throw WriteError("standard output: " + std::generic_category().message(errno));
  }
  output = stream;
}

int output_descriptor() {
  return ::fileno(output);
}

bool reader_is_gone() {
  return reader_gone;
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      // Nothing follows the last cell, and one of the others may be very long.
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    line.resize(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string signature_line(const Method& method) {
  std::string inputs;
  for (const Argument& argument : method.inputs) {
    // Where the flat names start: the argument's name, or its position in plain TorchScript.
    const auto parts = leaves(argument.value);
    const std::string name = parts.empty() ? argument.name : parts.front()->name;
    inputs += (inputs.empty() ? "" : ", ") + name.substr(0, name.find('.')) + ": " +
              node_text(argument.value) + (argument.required ? "" : " = default");
  }
  return method.name + "(" + inputs + ") -> " + outputs_text(method);
}

nlohmann::ordered_json finite_or_null(const std::optional<double>& number) {
  if (!number || !std::isfinite(*number)) return nullptr;
  return *number;
}

std::string short_number(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", number);
  return text;
}

}  // namespace torchship::app

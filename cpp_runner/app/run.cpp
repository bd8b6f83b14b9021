#include "run.h"

#include <torchship/session.h>
#include <torchship/tensor_io.h>

#include "input_files.h"
#include "json_lines.h"
#include "output.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <iostream>
#include <memory>
#include <utility>

namespace torchship::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view standard_stream = "-";

struct RunCommand {
  CommonOptions common;
  std::string method = "forward";
  std::vector<std::string> inputs;
  std::string output;
  bool labels = false;
  bool json = false;

  bool to_file() const { return !output.empty() && output != standard_stream; }
};

/// What an .npy output file holds: the one output that is not state.
TensorMap single_output(const Method& method, const TensorMap& outputs) {
  TensorMap result;
  for (const auto& [name, tensor] : outputs) {
    if (!method.is_state_output(name)) result.emplace(name, tensor);
  }
  return result;
}

/// Labels by the name of their output: of each row, the label of its largest value.
using Labelled = std::vector<std::pair<std::string, std::vector<std::string>>>;

Labelled labels_of(const Archive& archive, const TensorMap& outputs) {
  Labelled found;
  for (const auto& [name, labels] : archive.manifest()->labels) {
    const auto output = outputs.find(name);
    if (output == outputs.end()) continue;
    const at::Tensor& tensor = output->second;
    const auto classes = static_cast<std::int64_t>(labels.size());
    if (tensor.dim() == 0 || tensor.size(-1) != classes || classes == 0) {
      throw OutputError("output '" + name + "' has " + std::to_string(labels.size()) +
                        " labels, and its last dimension is not of that size");
    }
    const at::Tensor best = tensor.reshape({-1, classes}).argmax(1);
    auto& of_rows = found.emplace_back(name, std::vector<std::string>{}).second;
    for (std::int64_t row = 0; row < best.size(0); ++row) {
      of_rows.push_back(labels[static_cast<std::size_t>(best.const_data_ptr<std::int64_t>()[row])]);
    }
  }
  return found;
}

std::string label_lines(const Labelled& labelled) {
  std::string text;
  for (const auto& [name, labels] : labelled) {
    for (const std::string& label : labels) {
      text += (labelled.size() > 1 ? name + "\t" : "") + label + "\n";
    }
  }
  return text;
}

std::string json_line(const Labelled& labelled) {
  Json json = Json::object();
  for (const auto& [name, labels] : labelled) json[name] = labels;
  return json.dump() + "\n";
}

std::string json_line(const TensorMap& outputs) {
  Json json = Json::object();
  for (const auto& [name, tensor] : outputs) {
    json[name] = tensor_to_json(tensor, "output '" + name + "'");
  }
  return json.dump() + "\n";
}

/// Runs the steps one after the other; each goes out before the next comes in. `AnySession` is
/// Session or NativeSession.
template <typename AnySession>
class Runner {
 public:
  Runner(const Archive& archive, const RunCommand& options, AnySession session)
      : archive_(archive), options_(options), session_(std::move(session)) {}

  ExitCode run() {
    for (const std::string& input : options_.inputs) {
      if (input == standard_stream) {
        answer_lines();
      } else {
        print(step(read_inputs(input, session_.method())));
      }
    }
    if (options_.to_file() && steps_ > 0) {
      const bool npy = std::filesystem::path(options_.output).extension() == ".npy";
      write_tensors(options_.output, npy ? single_output(session_.method(), last_) : last_);
      if (options_.json && !options_.labels) {
        print(Json{{"output", options_.output}, {"steps", steps_}}.dump() + "\n");
      }
    }
    if (bad_lines_ == 0) return ExitCode::agreed;
    std::fprintf(stderr, "torchship-runner: error: %zu of %zu lines %s bad; the first: %s\n",
                 bad_lines_, lines_, bad_lines_ == 1 ? "was" : "were", first_bad_.c_str());
    return ExitCode::bad_input;
  }

 private:
  /// Runs a step, and returns what is to be printed of it. If its outputs cannot be printed,
  /// the state stays as it was.
  std::string step(const TensorMap& inputs) {
    AnySession session = session_;
    TensorMap outputs = session.step(inputs);
    std::string text;
    if (options_.labels) {
      const Labelled labelled = labels_of(archive_, outputs);
      text = options_.json ? json_line(labelled) : label_lines(labelled);
    } else if (!options_.to_file()) {
      text = json_line(outputs);
    }
    session_ = std::move(session);
    last_ = std::move(outputs);
    ++steps_;
    return text;
  }

  void answer_lines() {
    const std::size_t before = lines_;
    std::string line;
    for (std::size_t number = 1; !reader_is_gone() && std::getline(std::cin, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      ++lines_;
      print(answer(line, "line " + std::to_string(number) + ": "));
    }
    if (lines_ == before && !reader_is_gone()) throw InputError("no input line");
  }

  /// A bad line is answered with its error and changes nothing; a bad archive ends the stream.
  std::string answer(const std::string& line, const std::string& where) {
    try {
      return step(session_.inputs_from_json(parse_line(line)));
    } catch (const Error& error) {
      if (error.exit_code() != ExitCode::bad_input) throw;
      return refused(where + error.what());
    }
  }

  std::string refused(const std::string& message) {
    if (bad_lines_ == 0) first_bad_ = message;
    ++bad_lines_;
    return Json{{"error", message}}.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  }

  const Archive& archive_;
  const RunCommand& options_;
  AnySession session_;
  TensorMap last_;
  std::size_t steps_ = 0;
  std::size_t lines_ = 0;
  std::size_t bad_lines_ = 0;
  std::string first_bad_;
};

void check_labels(const Archive& archive, const RunCommand& options) {
  if (archive.manifest() == nullptr || archive.manifest()->labels.empty()) {
    throw UsageError("model '" + archive.name() + "' has no labels");
  }
  if (options.output == standard_stream) {
    throw UsageError("--labels and --output - both write to standard output");
  }
}

ExitCode run(const RunCommand& options) {
  const Archive archive = options.common.open();
  if (archive.manifest() == nullptr) {
    std::fputs("torchship-runner: plain TorchScript without a manifest: nothing vouches for it\n",
               stderr);
  }
  const auto native = options.common.open_native(archive);
  if (options.labels) check_labels(archive, options);
  if (options.to_file()) check_output_path(options.output);
  if (native) return Runner(archive, options, NativeSession(*native, options.method)).run();
  return Runner(archive, options, Session(archive, options.method)).run();
}

}  // namespace

void add_run(CLI::App& program, Action& action) {
  const auto options = std::make_shared<RunCommand>();
  CLI::App* command = program.add_subcommand(
      "run",
      "Run a method on tensors from files or standard input.\n"
      "Every --input, and every line of `-`, is one step: recurrent state is carried from step to "
      "step, and state that a step brings itself takes its place.\n"
      "Lines are answered one by one. A bad line is answered with {\"error\": \"line 3: ...\"} and "
      "changes nothing; the exit code at the end is then 4.\n"
      "Inputs have the names that `inspect` shows; in plain TorchScript arr_0, arr_1, ...");
  options->common.add_to(*command);
  options->common.add_native_to(*command, "Run, instead of the archive in LibTorch,");
  command->add_option("--method", options->method, "The method to call")->capture_default_str();
  command
      ->add_option("--input", options->inputs,
                   ".npz, .safetensors, .npy (one tensor), .png (8-bit gray, a batch of one), or "
                   "- for JSON lines: one object of name -> nested lists a line. May repeat")
      ->required()
      ->allow_extra_args(false);
  command->add_option("--output", options->output,
                      ".npz, .npy or .safetensors for the outputs of the last step, or - (default) "
                      "for a JSON line after each step");
  command->add_flag("--labels", options->labels,
                    "Print, for each row, the label of the largest value of the labelled output");
  command->add_flag("--json", options->json,
                    "Print JSON lines only: labels and errors too, and what was written to a file");
  command->footer(
      "Examples:\n"
      "  torchship-runner run fizzbuzz.pt --input numbers.npz --output out.npz\n"
      "  torchship-runner run bobnet.pt --input digit.png --labels\n"
      "  echo '{\"x\": [[1,1,1,1,0,0,0,0,0,0]]}' | torchship-runner run fizzbuzz.pt --input - "
      "--labels\n"
      "  torchship-runner run moba.pt --native moba.so --input steps.npz --output out.npz");
  command->callback([&action, options] { action = [options] { return run(*options); }; });
}

}  // namespace torchship::app

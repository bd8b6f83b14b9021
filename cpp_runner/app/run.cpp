// torchship-runner run

#include <torchship/session.h>
#include <torchship/tensor_io.h>

#include "bytes.h"
#include "common.h"

#include <nlohmann/json.hpp>

#include <iostream>
#include <memory>

namespace torchship::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view standard_stream = "-";

struct Options {
  CommonOptions common;
  std::string method = "forward";
  std::vector<std::string> inputs;
  std::string output;
  bool labels = false;

  bool to_file() const { return !output.empty() && output != standard_stream; }
};

/// The name of the one tensor input that an .npy file stands for.
std::string single_input(const Method& method) {
  std::vector<std::string> names;
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      if (argument.required && argument.value.is_leaf() && leaf->kind == Node::Kind::tensor &&
          !method.is_state_input(leaf->name)) {
        names.push_back(leaf->name);
      }
    }
  }
  if (names.size() == 1) return names.front();
  throw UsageError(".npy holds one tensor, and method '" + method.name + "' has " +
                   std::to_string(names.size()) + " tensor inputs: use .npz or .safetensors");
}

/// What an .npy output file holds: the one output that is not state.
TensorMap single_output(const Method& method, const TensorMap& outputs) {
  TensorMap result;
  for (const auto& [name, tensor] : outputs) {
    if (!method.is_state_output(name)) result.emplace(name, tensor);
  }
  return result;
}

/// For each row of a labelled output, the label of its largest value.
std::string label_lines(const Archive& archive, const TensorMap& outputs) {
  std::string text;
  std::size_t labelled = 0;
  for (const auto& [name, labels] : archive.manifest()->labels) {
    labelled += outputs.contains(name) ? 1 : 0;
  }
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
    for (std::int64_t row = 0; row < best.size(0); ++row) {
      if (labelled > 1) text += name + "\t";
      text += labels[static_cast<std::size_t>(best.const_data_ptr<std::int64_t>()[row])] + "\n";
    }
  }
  return text;
}

std::string json_line(const TensorMap& outputs) {
  Json json = Json::object();
  for (const auto& [name, tensor] : outputs) {
    json[name] = tensor_to_json(tensor, "output '" + name + "'");
  }
  return json.dump() + "\n";
}

/// Runs the steps one after the other; each goes out before the next comes in.
class Runner {
 public:
  Runner(const Archive& archive, const Options& options)
      : archive_(archive), options_(options), session_(archive, options.method) {}

  void run() {
    for (const std::string& input : options_.inputs) {
      if (input == standard_stream) {
        read_lines();
      } else {
        const bool npy = std::filesystem::path(input).extension() == ".npy";
        step(read_tensors(input, npy ? single_input(session_.method()) : ""));
      }
    }
    if (options_.to_file() && steps_ > 0) {
      const bool npy = std::filesystem::path(options_.output).extension() == ".npy";
      write_tensors(options_.output, npy ? single_output(session_.method(), last_) : last_);
    }
  }

 private:
  void step(const TensorMap& inputs) {
    last_ = session_.step(inputs);
    ++steps_;
    if (options_.labels) {
      print(label_lines(archive_, last_));
    } else if (!options_.to_file()) {
      print(json_line(last_));
    }
  }

  void read_lines() {
    const std::size_t before = steps_;
    std::string line;
    for (std::size_t number = 1; std::getline(std::cin, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const std::string what = "line " + std::to_string(number) + ": ";
      try {
        step(session_.inputs_from_json(nlohmann::json(parse_json(line))));
      } catch (const std::invalid_argument& error) {
        throw InputError(what + error.what());
      } catch (const InputError& error) {
        throw InputError(what + error.what());
      } catch (const ModelError& error) {
        throw ModelError(what + error.what());
      }
    }
    if (steps_ == before) throw InputError("no input line");
  }

  const Archive& archive_;
  const Options& options_;
  Session session_;
  TensorMap last_;
  std::size_t steps_ = 0;
};

void check_labels(const Archive& archive, const Options& options) {
  if (archive.manifest() == nullptr || archive.manifest()->labels.empty()) {
    throw UsageError("model '" + archive.name() + "' has no labels");
  }
  if (options.output == standard_stream) {
    throw UsageError("--labels and --output - both write to standard output");
  }
}

ExitCode run(const Options& options) {
  const Archive archive = options.common.open();
  if (archive.manifest() == nullptr) {
    std::fputs("torchship-runner: plain TorchScript without a manifest: nothing vouches for it\n",
               stderr);
  }
  if (options.labels) check_labels(archive, options);
  if (options.to_file()) check_output_path(options.output);
  Runner(archive, options).run();
  return ExitCode::agreed;
}

}  // namespace

void add_run(CLI::App& program, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand(
      "run",
      "Run a method on tensors from files or standard input.\n"
      "Every --input, and every line of `-`, is one step: recurrent state is carried from step to "
      "step, and state that a step brings itself takes its place.\n"
      "Inputs have the names that `inspect` shows; in plain TorchScript arr_0, arr_1, ...");
  options->common.add_to(*command);
  command->add_option("--method", options->method, "The method to call")->capture_default_str();
  command
      ->add_option("--input", options->inputs,
                   ".npz, .npy (one tensor), .safetensors, or - for JSON lines: one object of "
                   "name -> nested lists a line. May repeat")
      ->required()
      ->allow_extra_args(false);
  command->add_option("--output", options->output,
                      ".npz, .npy or .safetensors for the outputs of the last step, or - (default) "
                      "for a JSON line after each step");
  command->add_flag("--labels", options->labels,
                    "Print, for each row, the label of the largest value of the labelled output");
  command->footer(
      "Examples:\n"
      "  torchship-runner run fizzbuzz.pt --input numbers.npz --output out.npz\n"
      "  echo '{\"x\": [[1,1,1,1,0,0,0,0,0,0]]}' | torchship-runner run fizzbuzz.pt --input - "
      "--labels");
  command->callback([&action, options] { action = [options] { return run(*options); }; });
}

}  // namespace torchship::app

#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include "input_check.h"
#include "value_tree.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/jit_exception.h>

#include <algorithm>

namespace torchship {
namespace {

std::string trimmed(std::string_view text) {
  const auto end = text.find_last_not_of(" \t\r\n");
  return std::string(text.substr(0, end == std::string_view::npos ? 0 : end + 1));
}

/// What the model or an operator said, without the interpreter's stack trace around it.
std::string own_message(std::string_view text) {
  constexpr std::string_view marker = "\nRuntimeError: ";
  const auto start = text.rfind(marker);
  if (start != std::string_view::npos) text.remove_prefix(start + marker.size());
  return trimmed(text.substr(0, text.find('\n')));
}

std::string own_message(const torch::jit::JITException& error) {
  const auto original = error.getOriginalMsg();
  return original ? trimmed(*original) : own_message(error.what());
}

std::string method_names(const torch::jit::Module& module) {
  std::string names;
  for (const auto& method : module.get_methods()) {
    names += (names.empty() ? "" : ", ") + method.name();
  }
  return names;
}

std::string method_names(const Manifest& manifest) {
  std::string names;
  for (const Method& method : manifest.methods) names += (names.empty() ? "" : ", ") + method.name;
  return names;
}

Method find_method(const Archive& archive, const torch::jit::Module& module,
                   const std::string& name) {
  const auto unknown = [&](const std::string& names) {
    return UsageError("model '" + archive.name() + "' has no method '" + name + "'; it has " +
                      names);
  };
  if (const Manifest* manifest = archive.manifest()) {
    const Method* method = manifest->find_method(name);
    if (method == nullptr) throw unknown(method_names(*manifest));
    if (!module.find_method(name)) {
      throw ArchiveError("the manifest's method '" + name + "' is not in the model; it has " +
                         method_names(module));
    }
    return *method;
  }
  const auto method = module.find_method(name);
  if (!method) throw unknown(method_names(module));
  return method_from_schema(name, method->function().getSchema());
}

}  // namespace

Session::Session(const Archive& archive, std::shared_ptr<const torch::jit::Module> module,
                 const std::string& method)
    : model_(archive.name()),
      module_(std::move(module)),
      method_(find_method(archive, *module_, method)) {}

Session::Session(const Archive& archive, const std::string& method)
    : Session(archive, archive.load(), method) {}

TensorMap Session::run(const TensorMap& inputs, Promises promises) const {
  return call(inputs, {}, promises);
}

TensorMap Session::step(const TensorMap& inputs, Promises promises) {
  TensorMap outputs = call(inputs, state_, promises);
  TensorMap next;
  for (const State& state : method_.state) {
    const auto output = outputs.find(state.output);
    if (output != outputs.end()) next.emplace(state.input, output->second);
  }
  state_ = std::move(next);
  return outputs;
}

void Session::fill_state(TensorMap& inputs, const TensorMap& carried) const {
  Symbols symbols;
  check_inputs(method_, inputs, symbols);
  for (const State& state : method_.state) {
    if (inputs.contains(state.input)) continue;
    if (const auto kept = carried.find(state.input); kept != carried.end()) {
      if (const auto reason = symbols.mismatch(*find_input(method_, state.input), kept->second)) {
        throw InputError("input '" + state.input + "', carried from the step before: " + *reason);
      }
      inputs.emplace(state.input, kept->second);
    } else if (state.start == State::Start::zeros) {
      const Node& leaf = *find_input(method_, state.input);
      std::vector<std::int64_t> shape;
      for (const Dimension& dimension : *leaf.shape) {
        if (const auto* size = std::get_if<std::int64_t>(&dimension)) {
          shape.push_back(*size);
          continue;
        }
        const auto& symbol = std::get<std::string>(dimension);
        const auto size = symbols.find(symbol);
        if (!size) {
          throw InputError("missing input '" + state.input +
                           "': it starts as zeros, and no other " + "input tells the size of '" +
                           symbol + "'");
        }
        shape.push_back(*size);
      }
      inputs.emplace(state.input, at::zeros(shape, at::TensorOptions(*leaf.dtype)));
    }
  }
}

TensorMap Session::call(const TensorMap& given, const TensorMap& carried, Promises promises) const {
  check_names(method_, given);
  for (const Argument& argument : method_.inputs) {
    const Node& node = argument.value;
    if (argument.required && node.is_leaf() && node.name.find('*') == std::string::npos &&
        !given.contains(node.name) && !method_.is_state_input(node.name)) {
      missing_input(method_, given, node.name);
    }
  }
  // Not for speed alone: the same mode as the Python runtimes, and no autograd graph in carried
  // state.
  const c10::InferenceMode inference;
  TensorMap inputs = given;
  fill_state(inputs, carried);

  const torch::jit::Method method = module_->get_method(method_.name);
  const c10::FunctionSchema& schema = method.function().getSchema();
  torch::jit::Kwargs arguments;
  for (const Argument& argument : method_.inputs) {
    const auto position = schema.argumentIndexWithName(argument.name);
    if (!position) {
      throw ArchiveError("the manifest's argument '" + argument.name + "' is not one of method '" +
                         method_.name + "'");
    }
    const auto in_use = leaves(argument.value);
    const bool any_given = std::ranges::any_of(inputs, [&](const auto& item) {
      return std::ranges::any_of(in_use,
                                 [&](const Node* l) { return matches(l->name, item.first); });
    });
    if (!any_given && !argument.required) continue;
    const auto& type = schema.arguments()[static_cast<std::size_t>(*position)].type();
    Built built = build_value(argument.value, type, inputs);
    if (!built.value) missing_input(method_, inputs, built.missing);
    arguments.emplace(argument.name, std::move(*built.value));
  }

  const std::string raised = "model '" + model_ + "' method '" + method_.name + "' raised: ";
  c10::IValue result;
  try {
    result = method({}, arguments);
  } catch (const torch::jit::JITException& error) {
    throw ModelError(raised + own_message(error));
  } catch (const c10::Error& error) {
    throw ModelError(raised + own_message(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw ModelError(raised + own_message(error.what()));
  }
  TensorMap outputs = flatten_value(method_.outputs, result);
  if (promises == Promises::enforce) check_outputs(inputs, outputs);
  return outputs;
}

void Session::check_outputs(const TensorMap& inputs, const TensorMap& outputs) const {
  Symbols symbols;
  check_inputs(method_, inputs, symbols);
  for (const Node* leaf : leaves(method_.outputs)) {
    for (const auto& [name, tensor] : outputs) {
      if (!matches(leaf->name, name) || leaf->kind != Node::Kind::tensor) continue;
      if (const auto reason = symbols.mismatch(*leaf, tensor)) {
        throw OutputError("model '" + model_ + "' method '" + method_.name + "' output '" + name +
                          "': " + *reason);
      }
    }
  }
}

TensorMap Session::inputs_from_json(const nlohmann::json& object) const {
  if (!object.is_object()) {
    throw InputError("expected a JSON object of input name -> values, got " +
                     std::string(object.type_name()));
  }
  TensorMap inputs;
  for (const auto& [name, value] : object.items()) {
    const std::string what = "input '" + name + "'";
    const Node* leaf = find_input(method_, name);
    at::Tensor tensor;
    if (leaf == nullptr) {
      inputs.emplace(name, at::Tensor());
      check_names(method_, inputs);
    } else if (leaf->kind == Node::Kind::string) {
      if (!value.is_string()) throw InputError(what + ": expected a string, got " + value.dump());
      tensor = tensor_from_string(value.get<std::string>());
    } else if (leaf->kind == Node::Kind::tensor && !leaf->dtype) {
      tensor = tensor_from_json(value, what);
    } else {
      const auto dtype = leaf->kind == Node::Kind::tensor    ? *leaf->dtype
                         : leaf->kind == Node::Kind::integer ? at::kLong
                         : leaf->kind == Node::Kind::real    ? at::kDouble
                                                             : at::kBool;
      tensor = tensor_from_json(value, dtype, what);
    }
    inputs.emplace(name, std::move(tensor));
  }
  return inputs;
}

Methods methods_of(const Archive& archive) {
  if (const Manifest* manifest = archive.manifest()) {
    return {.callable = manifest->methods, .not_callable = {}};
  }
  Methods methods;
  const auto module = archive.load();
  for (const auto& method : module->get_methods()) {
    try {
      methods.callable.push_back(method_from_schema(method.name(), method.function().getSchema()));
    } catch (const UsageError&) {
      methods.not_callable.push_back(method.name());  // takes what no file can carry
    }
  }
  return methods;
}

}  // namespace torchship

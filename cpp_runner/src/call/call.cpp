#include "call/call.h"

#include <torchship/error.h>

#include "base/out_of_memory.h"
#include "call/complete_inputs.h"
#include "call/value_tree.h"
#include "call/written_arguments.h"
#include "runtime/printing.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/jit_exception.h>

#include <algorithm>
#include <utility>

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

}  // namespace

Call::Call(std::string model, std::shared_ptr<const torch::jit::Module> module, Method method,
           c10::Device device)
    : model_(std::move(model)),
      printing_(printing_as(model_)),
      module_(std::move(module)),
      method_(std::move(method)),
      device_(device),
      function_(&module_->get_method(method_.name).function()),
      written_(written_arguments(*function_)) {
  const c10::FunctionSchema& schema = function_->getSchema();
  for (const Argument& argument : method_.inputs) {
    const auto position = schema.argumentIndexWithName(argument.name);
    if (!position || *position == 0) {
      throw ArchiveError("the manifest's argument '" + argument.name + "' is not one of method '" +
                         method_.name + "'");
    }
    const auto index = static_cast<std::size_t>(*position);
    prepared_.push_back({.position = index,
                         .type = schema.arguments()[index].type(),
                         .leaves = leaves(argument.value)});
  }
  if (device_.is_cpu()) fast_ = FastPath::make(method_, schema, written_);
}

TensorMap Call::operator()(const TensorMap& given, std::span<const at::Tensor> carried,
                           OutputCheck check) const {
  try {
    return run(given, carried, check);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    if (!says_out_of_memory(error)) throw;
    throw out_of_memory("model '" + model_ + "' method '" + method_.name + "'", error);
  }
}

TensorMap Call::run(const TensorMap& given, std::span<const at::Tensor> carried,
                    OutputCheck check) const {
  if (fast_) {
    FastPath::Sizes sizes = fast_->sizes();
    std::vector<c10::IValue> stack;
    stack.reserve(fast_->size() + 1);
    stack.resize(fast_->size());
    if (fast_->bind(given, carried, sizes, stack)) {
      stack.front() = module_->_ivalue();
      const c10::IValue result = invoke(stack);
      if (auto outputs = fast_->outputs(result, sizes)) return std::move(*outputs);
      TensorMap outputs = flatten_value(method_.outputs, result);
      if (check == OutputCheck::strict) check_outputs(completed(given, carried), outputs);
      return outputs;
    }
  }
  const TensorMap inputs = completed(given, carried);
  std::vector<c10::IValue> stack = stack_of(inputs);
  TensorMap outputs = flatten_value(method_.outputs, invoke(stack));
  if (check == OutputCheck::strict) check_outputs(inputs, outputs);
  return outputs;
}

std::vector<c10::IValue> Call::arguments(const TensorMap& given) const {
  std::vector<c10::IValue> stack = stack_of(completed(given, {}));
  stack.erase(stack.begin());
  return stack;
}

TensorMap Call::completed(const TensorMap& given, std::span<const at::Tensor> carried) const {
  Symbols symbols;
  return complete_inputs(method_, given, carried, device_, symbols);
}

/// The inputs, those that the method may overwrite copied.
TensorMap Call::with_copies(const TensorMap& inputs) const {
  TensorMap safe = inputs;
  for (const Prepared& argument : prepared_) {
    if (!written_[argument.position]) continue;
    for (const Node* leaf : argument.leaves) {
      for (auto& [name, tensor] : safe) {
        if (matches(leaf->name, name)) tensor = tensor.clone();
      }
    }
  }
  return safe;
}

std::vector<c10::IValue> Call::stack_of(const TensorMap& given) const {
  const TensorMap inputs = with_copies(given);
  const c10::FunctionSchema& schema = function_->getSchema();
  torch::jit::Kwargs arguments;
  for (std::size_t i = 0; i < method_.inputs.size(); ++i) {
    const Argument& argument = method_.inputs[i];
    const bool any_given = std::ranges::any_of(inputs, [&](const auto& item) {
      return std::ranges::any_of(prepared_[i].leaves,
                                 [&](const Node* leaf) { return matches(leaf->name, item.first); });
    });
    if (!any_given && !argument.required) continue;
    Built built = build_value(argument.value, prepared_[i].type, inputs);
    if (!built.value) missing_input(method_, inputs, built.missing);
    arguments.emplace(argument.name, std::move(*built.value));
  }
  std::vector<c10::IValue> stack{module_->_ivalue()};
  stack.reserve(schema.arguments().size() + 1);
  try {
    schema.checkAndNormalizeInputs(stack, arguments);
  } catch (const c10::Error& error) {
    throw ModelError("model '" + model_ + "' method '" + method_.name +
                     "' raised: " + own_message(error.what_without_backtrace()));
  }
  return stack;
}

c10::IValue Call::invoke(std::vector<c10::IValue>& stack) const {
  const auto raised = [&](const std::string& message) {
    return ModelError("model '" + model_ + "' method '" + method_.name + "' raised: " + message);
  };
  const Printing printing(printing_);
  try {
    function_->run(stack);
    return std::move(stack.front());
  } catch (const torch::jit::JITException& error) {
    throw raised(own_message(error));
  } catch (const c10::Error& error) {
    if (says_out_of_memory(error)) throw;
    throw raised(own_message(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    if (says_out_of_memory(error)) throw;
    throw raised(own_message(error.what()));
  }
}

void Call::check_outputs(const TensorMap& inputs, const TensorMap& outputs) const {
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

}  // namespace torchship

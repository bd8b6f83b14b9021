#include "call/complete_inputs.h"

#include <torchship/error.h>

#include <ATen/ops/zeros.h>

namespace torchship {
namespace {

/// Adds the state that is not given: what was carried, or what the manifest says it starts as.
void fill_state(const Method& method, TensorMap& inputs, std::span<const at::Tensor> carried,
                c10::Device device, Symbols& symbols) {
  for (std::size_t i = 0; i < method.state.size(); ++i) {
    const State& state = method.state[i];
    if (inputs.contains(state.input)) continue;
    const Node& leaf = *find_input(method, state.input);
    if (i < carried.size() && carried[i].defined()) {
      if (const auto reason = symbols.mismatch(leaf, carried[i])) {
        throw InputError("input '" + state.input + "', carried from the step before: " + *reason);
      }
      inputs.emplace(state.input, carried[i]);
    } else if (state.start == State::Start::zeros) {
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
                           "': it starts as zeros, and no other input tells the size of '" +
                           symbol + "'");
        }
        shape.push_back(*size);
      }
      inputs.emplace(state.input, at::zeros(shape, at::TensorOptions(*leaf.dtype).device(device)));
    }
  }
}

}  // namespace

TensorMap complete_inputs(const Method& method, const TensorMap& given,
                          std::span<const at::Tensor> carried, c10::Device device,
                          Symbols& symbols) {
  check_names(method, given);
  for (const Argument& argument : method.inputs) {
    const Node& node = argument.value;
    if (argument.required && node.is_leaf() && node.name.find('*') == std::string::npos &&
        !given.contains(node.name) && !method.is_state_input(node.name)) {
      missing_input(method, given, node.name);
    }
  }
  TensorMap inputs;
  for (const auto& [name, tensor] : given) {
    inputs.emplace_hint(inputs.end(), name, dense(method, name, tensor, device));
  }
  check_inputs(method, inputs, symbols);
  fill_state(method, inputs, carried, device, symbols);
  return inputs;
}

std::vector<at::Tensor> carried_state(const Method& method, const TensorMap& outputs) {
  std::vector<at::Tensor> carried(method.state.size());
  for (std::size_t i = 0; i < carried.size(); ++i) {
    const auto output = outputs.find(method.state[i].output);
    if (output != outputs.end()) carried[i] = output->second;
  }
  return carried;
}

}  // namespace torchship

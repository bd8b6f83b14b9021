#include "native/native_call.h"

#include <torchship/error.h>

#include "base/out_of_memory.h"
#include "call/complete_inputs.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace torchship {
namespace {

constexpr int raised = 1;  // a status; 0 is success
constexpr std::size_t message_size = 4096;

/// The size of a dimension without a symbol, whose key is `<flat name>.<axis>`; 0 if its input is
/// not given.
std::int64_t unnamed_size(std::string_view key, const TensorMap& inputs) {
  const auto dot = key.rfind('.');
  if (dot == std::string_view::npos) return 0;
  const auto input = inputs.find(key.substr(0, dot));
  std::int64_t axis = 0;
  std::from_chars(key.data() + dot + 1, key.data() + key.size(), axis);
  return input == inputs.end() || axis >= input->second.dim() ? 0 : input->second.size(axis);
}

[[noreturn]] void refuse_missing(const Method& method, const TensorMap& inputs,
                                 const std::string& name) {
  for (const Argument& argument : method.inputs) {
    const auto nodes = leaves(argument.value);
    if (!argument.required && std::ranges::find(nodes, name, &Node::name) != nodes.end()) {
      throw InputError("missing input '" + name + "': compiled code does not know its default");
    }
  }
  missing_input(method, inputs, name);
}

/// The address of a tensor's elements: never null, which would stand for an absent tensor.
const void* address(const at::Tensor& tensor) {
  static constexpr char nothing = 0;
  return tensor.numel() == 0 ? &nothing : tensor.const_data_ptr();
}

}  // namespace

NativeCall::NativeCall(std::shared_ptr<const NativeCode> code, const std::string& method)
    : code_(std::move(code)),
      method_(code_->signature(method)),
      native_(code_->method(method)),
      fast_(FastBinding::make(method_, native_)) {}

TensorMap NativeCall::operator()(const TensorMap& given, std::span<const at::Tensor> carried,
                                 std::vector<char>& workspace) const {
  try {
    return run(given, carried, workspace);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    if (!says_out_of_memory(error)) throw;
    throw out_of_memory("model '" + code_->model() + "' method '" + method_.name + "'", error);
  }
}

TensorMap NativeCall::run(const TensorMap& given, std::span<const at::Tensor> carried,
                          std::vector<char>& workspace) const {
  Words in(native_.inputs.size(), NativeWord{.integer = 0});
  if (fast_ && fast_->bind(given, carried, in)) return compute(in, workspace);
  Symbols symbols;
  const TensorMap inputs = complete_inputs(method_, given, carried, at::kCPU, symbols);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = word(native_.inputs[i], inputs, symbols);
  return compute(in, workspace);
}

TensorMap NativeCall::compute(const Words& in, std::vector<char>& workspace) const {
  TensorMap outputs;
  Words out;
  for (std::size_t i = 0; i < native_.outputs.size(); ++i) {
    const auto& made = outputs.emplace(native_.outputs[i].leaf, new_output(i, in.data()));
    out.push_back({.pointer = address(made.first->second)});
  }
  std::array<char, message_size> message;  // the call begins by ending it
  out.push_back({.pointer = message.data()});
  out.push_back({.integer = message.size()});

  const std::size_t needed = native_.workspace_size(in.data());
  if (workspace.size() < needed) workspace = std::vector<char>(needed);
  const int status = native_.compute(nullptr, in.data(), out.data(), workspace.data());
  if (status == 0) return outputs;
  const std::string what = "method '" + method_.name + "'";
  if (status == raised) {
    throw ModelError("model '" + code_->model() + "' " + what + " raised: " + message.data());
  }
  throw InputError(what + ": " + message.data());
}

NativeWord NativeCall::word(const NativeInput& field, const TensorMap& inputs,
                            const Symbols& symbols) const {
  if (field.kind == NativeInput::Kind::size) {
    const auto bound = symbols.find(field.leaf);
    return {.integer = bound ? *bound : unnamed_size(field.leaf, inputs)};
  }
  const auto found = inputs.find(field.leaf);
  if (found == inputs.end()) {
    if (!field.optional) refuse_missing(method_, inputs, field.leaf);
    return {.pointer = nullptr};
  }
  const at::Tensor& value = found->second;
  switch (field.kind) {
    case NativeInput::Kind::real:
      return {.number = *value.const_data_ptr<double>()};
    case NativeInput::Kind::integer:
      return {.integer = *value.const_data_ptr<std::int64_t>()};
    case NativeInput::Kind::boolean:
      return {.integer = *value.const_data_ptr<bool>() ? 1 : 0};
    default:
      return {.pointer = address(value)};
  }
}

at::Tensor NativeCall::new_output(std::size_t index, const NativeWord* in) const {
  const NativeOutput& output = native_.outputs[index];
  std::vector<std::int64_t> shape(output.rank);
  native_.shape(in, static_cast<int>(index), shape.data());
  return at::empty(shape, at::TensorOptions(output.dtype));
}

}  // namespace torchship

#include <torchship/error.h>
#include <torchship/session.h>

#include "call.h"
#include "input_check.h"
#include "runtime_scope.h"

#include <nlohmann/json.hpp>

namespace torchship {

Session::Session(const Archive& archive, const std::string& method) : call_(archive.call(method)) {}

Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::Session(const Session&) = default;
Session& Session::operator=(const Session&) = default;

const Method& Session::method() const {
  return call_->method();
}

TensorMap Session::run(const TensorMap& inputs, Promises promises) const {
  const RuntimeScope scope;
  return on_cpu((*call_)(inputs, {}, promises));
}

TensorMap Session::step(const TensorMap& inputs, Promises promises) {
  const RuntimeScope scope;
  TensorMap outputs = (*call_)(inputs, state_, promises);
  const std::vector<State>& states = method().state;
  std::vector<at::Tensor> next(states.size());
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto output = outputs.find(states[i].output);
    if (output != outputs.end()) next[i] = output->second;
  }
  state_ = std::move(next);
  return on_cpu(std::move(outputs));
}

TensorMap Session::inputs_from_json(const nlohmann::json& object) const {
  if (!object.is_object()) {
    throw InputError("expected a JSON object of input name -> values, got " +
                     std::string(object.type_name()));
  }
  TensorMap inputs;
  for (const auto& [name, value] : object.items()) {
    const std::string what = "input '" + name + "'";
    const Node* leaf = find_input(method(), name);
    at::Tensor tensor;
    if (leaf == nullptr) {
      inputs.emplace(name, at::Tensor());
      check_names(method(), inputs);
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

}  // namespace torchship

#include "call/json_inputs.h"

#include <torchship/error.h>

#include "call/input_check.h"

#include <nlohmann/json.hpp>

namespace torchship {

TensorMap inputs_from_json(const Method& method, const nlohmann::json& object) {
  if (!object.is_object()) {
    throw InputError("expected a JSON object of input name -> values, got " +
                     std::string(object.type_name()));
  }
  TensorMap inputs;
  for (const auto& [name, value] : object.items()) {
    const std::string what = "input '" + name + "'";
    const Node* leaf = find_input(method, name);
    at::Tensor tensor;
    if (leaf == nullptr) {
      inputs.emplace(name, at::Tensor());
      check_names(method, inputs);
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

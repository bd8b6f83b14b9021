#include "manifest/method_json.h"

#include <torchship/dtype.h>

namespace torchship {
namespace {

using Json = nlohmann::ordered_json;

Json dimension_json(const Dimension& dimension) {
  if (const auto* size = std::get_if<std::int64_t>(&dimension)) return *size;
  if (const auto* symbol = std::get_if<std::string>(&dimension)) return *symbol;
  return nullptr;
}

Json leaf_json(const Node& leaf) {
  Json json{{"name", leaf.name}, {"value", describe(leaf)}};
  if (leaf.dtype) json["dtype"] = dtype_name(*leaf.dtype);
  if (leaf.shape) {
    json["shape"] = Json::array();
    for (const Dimension& dimension : *leaf.shape) {
      json["shape"].push_back(dimension_json(dimension));
    }
  }
  return json;
}

}  // namespace

Json method_json(const Method& method) {
  Json json{{"name", method.name}};
  json["inputs"] = Json::array();
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      Json input = leaf_json(*leaf);
      input["required"] = argument.required;
      json["inputs"].push_back(std::move(input));
    }
  }
  json["outputs"] = Json::array();
  for (const Node* leaf : leaves(method.outputs)) {
    Json output = leaf_json(*leaf);
    if (const auto found = method.tolerances.find(leaf->name); found != method.tolerances.end()) {
      output["atol"] = found->second.atol;
      output["rtol"] = found->second.rtol;
    }
    json["outputs"].push_back(std::move(output));
  }
  json["state"] = Json::array();
  for (const State& state : method.state) {
    json["state"].push_back({{"input", state.input},
                             {"output", state.output},
                             {"start", state.start == State::Start::zeros ? "zeros" : "absent"}});
  }
  return json;
}

}  // namespace torchship

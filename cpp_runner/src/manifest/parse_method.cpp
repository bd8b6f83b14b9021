#include "manifest/parse_method.h"

#include "manifest/parse_node.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string_view>

namespace torchship {
namespace {

// Lookups are by name, never along a list: the manifest comes from outside, and any of its lists
// may have a million items.
using Leaves = std::map<std::string_view, const Node*>;
using Names = std::set<std::string_view>;

void add_leaves(const Node& node, Leaves& found) {
  for (const Node* leaf : leaves(node)) found.emplace(leaf->name, leaf);
}

/// The leaves that a call may leave out.
void add_omissible(const Node& node, bool required, Names& found) {
  if (!required || node.kind == Node::Kind::optional) {
    for (const Node* leaf : leaves(node)) found.insert(leaf->name);
  } else {
    for (const Node& item : node.items) add_omissible(item, required, found);
  }
}

/// The tensor leaf of this name, which one tensor alone has.
const Node& tensor_leaf(const Field& field, const Leaves& among) {
  const std::string name = field.string();
  const auto found = among.find(name);
  if (found == among.end()) field.fail("there is no such leaf '" + name + "'");
  if (found->second->kind != Node::Kind::tensor) field.fail("'" + name + "' is no tensor");
  if (name.find('*') != std::string::npos) {
    field.fail("'" + name + "' stands for any number of tensors");
  }
  return *found->second;
}

State parse_state(const Field& field, const Leaves& inputs, const Leaves& outputs,
                  const Names& omissible) {
  field.only({"input", "output", "start"});
  const Node& input = tensor_leaf(field.at("input"), inputs);
  const Node& output = tensor_leaf(field.at("output"), outputs);
  State state{.input = input.name, .output = output.name};
  if (input.dtype != output.dtype || input.shape->size() != output.shape->size()) {
    field.fail("input '" + input.name + "' is " + describe(input) + ", output '" + output.name +
               "' is " + describe(output) + ": they differ in dtype or rank");
  }
  const Field start = field.at("start");
  if (start.string() == "absent") {
    state.start = State::Start::absent;
    if (!omissible.contains(state.input)) {
      start.fail("input '" + state.input + "' cannot be absent");
    }
  } else if (start.string() == "zeros") {
    const auto any = [](const Dimension& d) { return std::holds_alternative<std::monostate>(d); };
    if (std::ranges::any_of(*input.shape, any)) {
      start.fail("input '" + state.input + "' has a dimension of any size");
    }
  } else {
    start.fail("expected 'zeros' or 'absent', got '" + start.string() + "'");
  }
  return state;
}

std::vector<State> parse_states(const Field& field, const Method& method) {
  Leaves inputs;
  Leaves outputs;
  Names omissible;
  for (const Argument& argument : method.inputs) {
    add_leaves(argument.value, inputs);
    add_omissible(argument.value, argument.required, omissible);
  }
  add_leaves(method.outputs, outputs);
  std::vector<State> states;
  std::set<std::string> names;
  for (const Field& entry : field.list()) {
    states.push_back(parse_state(entry, inputs, outputs, omissible));
    const std::string& input = states.back().input;
    if (!names.insert(input).second) entry.at("input").fail("'" + input + "' occurs twice");
  }
  return states;
}

double parse_tolerance(const Field& field) {
  const double value = field.number();
  if (!(value >= 0) || !std::isfinite(value)) field.fail("expected a finite number, 0 or more");
  return value;
}

}  // namespace

Method parse_method(const std::string& name, const Field& field) {
  field.only({"inputs", "outputs", "state", "tolerances"});
  Method method;
  method.name = name;
  std::set<std::string> arguments;
  std::set<std::string> names;
  for (const Field& entry : field.at("inputs").list()) {
    entry.only({"name", "required", "value"});
    Argument argument{.name = entry.at("name").string(),
                      .required = entry.at("required").boolean(),
                      .value = parse_node(entry.at("value"))};
    if (!arguments.insert(argument.name).second) {
      entry.at("name").fail("the argument '" + argument.name + "' occurs twice");
    }
    for (const Node* leaf : leaves(argument.value)) {
      if (!names.insert(leaf->name).second) {
        entry.fail("the input name '" + leaf->name + "' occurs twice");
      }
    }
    method.inputs.push_back(std::move(argument));
  }
  const Field outputs = field.at("outputs");
  method.outputs = parse_node(outputs);
  if (field.has("tolerances")) {
    for (const auto& [output, tolerance] : field.at("tolerances").object()) {
      tolerance.only({"atol", "rtol"});
      method.tolerances[output] = {.atol = parse_tolerance(tolerance.at("atol")),
                                   .rtol = parse_tolerance(tolerance.at("rtol"))};
    }
  }
  if (leaves(method.outputs).empty()) outputs.fail("there is no tensor");
  names.clear();
  for (const Node* leaf : leaves(method.outputs)) {
    if (leaf->kind != Node::Kind::tensor) {
      outputs.fail("output '" + leaf->name + "' is no tensor");
    }
    if (!names.insert(leaf->name).second) {
      outputs.fail("the output name '" + leaf->name + "' occurs twice");
    }
    if (!method.tolerances.contains(leaf->name)) {
      field.fail("output '" + leaf->name + "' has no tolerance");
    }
  }
  for (const auto& [output, tolerance] : method.tolerances) {
    if (!names.contains(output)) {
      field.fail("there is a tolerance for '" + output + "', which is no output");
    }
  }
  if (field.has("state")) method.state = parse_states(field.at("state"), method);
  return method;
}

}  // namespace torchship

#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/manifest.h>

#include "bytes.h"
#include "manifest_fields.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace torchship {
namespace {

constexpr int max_depth = 32;

const std::map<std::string, Node::Kind, std::less<>> kinds{
    {"tensor", Node::Kind::tensor},     {"int", Node::Kind::integer},
    {"float", Node::Kind::real},        {"bool", Node::Kind::boolean},
    {"str", Node::Kind::string},        {"tuple", Node::Kind::tuple},
    {"list", Node::Kind::list},         {"dict", Node::Kind::dict},
    {"optional", Node::Kind::optional}, {"none", Node::Kind::none},
};

Dimension parse_dimension(const Field& field) {
  if (field.is_null()) return std::monostate{};
  if (field.is_string()) {
    std::string symbol = field.string();
    if (symbol.empty()) field.fail("a symbol's name is empty");
    return symbol;
  }
  return field.count("a size, a symbol or null");
}

Node parse_node(const Field& field, int depth);

std::vector<Node> parse_items(const Field& field, int depth) {
  std::vector<Node> items;
  for (const Field& item : field.list()) items.push_back(parse_node(item, depth + 1));
  return items;
}

Node parse_node(const Field& field, int depth) {
  if (depth > max_depth) field.fail("nested deeper than " + std::to_string(max_depth));
  Node node;
  const Field kind = field.at("kind");
  const auto known = kinds.find(kind.string());
  if (known == kinds.end()) kind.fail("unknown kind '" + kind.string() + "'");
  node.kind = known->second;
  if (node.is_leaf()) {
    node.name = field.at("name").string();
    if (node.name.empty()) field.at("name").fail("the name is empty");
  }
  switch (node.kind) {
    case Node::Kind::tensor: {
      const Field dtype = field.at("dtype");
      node.dtype = dtype_from_name(dtype.string());
      if (!node.dtype) dtype.fail("unknown dtype '" + dtype.string() + "'");
      node.shape.emplace();
      for (const Field& entry : field.at("shape").list()) {
        node.shape->push_back(parse_dimension(entry));
      }
      break;
    }
    case Node::Kind::tuple:
      node.items = parse_items(field.at("items"), depth);
      break;
    case Node::Kind::list:
    case Node::Kind::dict:
      if (field.has("element")) {
        node.variadic = true;
        node.items.push_back(parse_node(field.at("element"), depth + 1));
        break;
      }
      node.items = parse_items(field.at("items"), depth);
      if (node.kind == Node::Kind::dict) {
        for (const Field& key : field.at("keys").list()) node.keys.push_back(key.string());
        if (node.keys.size() != node.items.size()) field.fail("keys and items differ in number");
      }
      break;
    case Node::Kind::optional:
      node.items.push_back(parse_node(field.at("item"), depth + 1));
      break;
    default:
      break;
  }
  return node;
}

bool inside_optional(const Node& node, std::string_view leaf) {
  const auto holds = [leaf](const Node& part) {
    return std::ranges::any_of(leaves(part), [leaf](const Node* l) { return l->name == leaf; });
  };
  if (node.kind == Node::Kind::optional) return holds(node);
  return std::ranges::any_of(node.items,
                             [leaf](const Node& item) { return inside_optional(item, leaf); });
}

State parse_state(const Field& field, const Method& method) {
  State state{.input = field.at("input").string(), .output = field.at("output").string()};
  const Node* input = nullptr;
  bool may_be_absent = false;
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      if (leaf->name != state.input) continue;
      input = leaf;
      may_be_absent = !argument.required || inside_optional(argument.value, leaf->name);
    }
  }
  if (input == nullptr) field.at("input").fail("there is no input '" + state.input + "'");
  const auto outputs = leaves(method.outputs);
  if (std::ranges::none_of(outputs, [&](const Node* l) { return l->name == state.output; })) {
    field.at("output").fail("there is no output '" + state.output + "'");
  }
  const Field start = field.at("start");
  if (start.string() == "absent") {
    state.start = State::Start::absent;
    if (!may_be_absent) start.fail("input '" + state.input + "' cannot be absent");
  } else if (start.string() == "zeros") {
    const auto any = [](const Dimension& d) { return std::holds_alternative<std::monostate>(d); };
    if (input->kind != Node::Kind::tensor || std::ranges::any_of(*input->shape, any)) {
      start.fail("input '" + state.input + "' is no tensor of known shape");
    }
  } else {
    start.fail("expected 'zeros' or 'absent', got '" + start.string() + "'");
  }
  if (method.is_state_input(state.input)) {
    field.at("input").fail("'" + state.input + "' occurs twice");
  }
  return state;
}

double parse_tolerance(const Field& field) {
  const double value = field.number();
  if (!(value >= 0) || !std::isfinite(value)) field.fail("expected a finite number, 0 or more");
  return value;
}

Method parse_method(const std::string& name, const Field& field) {
  Method method;
  method.name = name;
  std::set<std::string> names;
  for (const Field& entry : field.at("inputs").list()) {
    Argument argument{.name = entry.at("name").string(),
                      .required = entry.at("required").boolean(),
                      .value = parse_node(entry.at("value"), 0)};
    for (const Node* leaf : leaves(argument.value)) {
      if (!names.insert(leaf->name).second) {
        entry.fail("the input name '" + leaf->name + "' occurs twice");
      }
    }
    method.inputs.push_back(std::move(argument));
  }
  const Field outputs = field.at("outputs");
  method.outputs = parse_node(outputs, 0);
  if (field.has("tolerances")) {
    for (const auto& [output, tolerance] : field.at("tolerances").object()) {
      method.tolerances[output] = {.atol = parse_tolerance(tolerance.at("atol")),
                                   .rtol = parse_tolerance(tolerance.at("rtol"))};
    }
  }
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
  if (field.has("state")) {
    for (const Field& entry : field.at("state").list()) {
      method.state.push_back(parse_state(entry, method));
    }
  }
  return method;
}

std::vector<std::string> parse_strings(const Field& field) {
  std::vector<std::string> strings;
  for (const Field& item : field.list()) strings.push_back(item.string());
  return strings;
}

void parse_format(const Field& root, Manifest& manifest) {
  manifest.format = root.at("format").count("a number");
  if (manifest.format > archive_format) {
    throw FormatError("the archive has format " + std::to_string(manifest.format) +
                      ", and this torchship reads formats up to " + std::to_string(archive_format) +
                      ": update torchship, or export the model again");
  }
  if (manifest.format != archive_format) root.at("format").fail("there is no such format");
}

GoldenCase parse_golden(const Field& field, const Manifest& manifest) {
  GoldenCase golden{.name = field.at("name").string(),
                    .method = field.at("method").string(),
                    .steps = field.at("steps").count("a number of steps")};
  if (golden.steps < 1) field.at("steps").fail("expected 1 or more");
  if (manifest.find_method(golden.method) == nullptr) {
    field.at("method").fail("there is no method '" + golden.method + "'");
  }
  return golden;
}

bool has_output(const Manifest& manifest, const std::string& name) {
  return std::ranges::any_of(manifest.methods, [&](const Method& method) {
    return std::ranges::any_of(leaves(method.outputs),
                               [&](const Node* leaf) { return leaf->name == name; });
  });
}

}  // namespace

Manifest parse_manifest(std::string_view text) {
  nlohmann::ordered_json json;
  try {
    json = parse_json(text);
  } catch (const std::invalid_argument& error) {
    throw ArchiveError(std::string("the manifest is no JSON: ") + error.what());
  }
  const Field root(json, "");
  Manifest manifest;
  parse_format(root, manifest);
  manifest.name = root.at("name").string();
  manifest.version = root.at("version").string();
  if (root.has("description")) manifest.description = root.at("description").string();
  const Field source = root.at("source");
  manifest.source.factory = source.at("factory").string();
  if (source.has("kwargs")) manifest.source.kwargs = source.at("kwargs").dump();
  if (source.has("git_commit")) manifest.source.git_commit = source.at("git_commit").string();
  manifest.torch = root.at("torch").string();
  manifest.mode = root.at("mode").string();
  if (manifest.mode != "script" && manifest.mode != "trace") {
    root.at("mode").fail("expected 'script' or 'trace', got '" + manifest.mode + "'");
  }
  manifest.parameters = root.at("parameters").count("a number");
  for (const auto& [name, method] : root.at("methods").object()) {
    manifest.methods.push_back(parse_method(name, method));
  }
  if (manifest.methods.empty()) root.at("methods").fail("there is no method");
  for (const Field& entry : root.at("golden").list()) {
    manifest.golden.push_back(parse_golden(entry, manifest));
  }
  if (root.has("labels")) {
    for (const auto& [output, names] : root.at("labels").object()) {
      if (!has_output(manifest, output)) names.fail("there is no output '" + output + "'");
      manifest.labels[output] = parse_strings(names);
    }
  }
  if (root.has("metrics")) {
    for (const auto& [name, value] : root.at("metrics").object()) {
      manifest.metrics.emplace_back(name, value.number());
    }
  }
  if (root.has("custom_ops")) manifest.custom_ops = parse_strings(root.at("custom_ops"));
  for (const auto& [name, digest] : root.at("records").object()) {
    const std::string hex = digest.string();
    if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos) {
      digest.fail("expected 64 lower-case hex digits");
    }
    manifest.records[name] = hex;
  }
  return manifest;
}

}  // namespace torchship

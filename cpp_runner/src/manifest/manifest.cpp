#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/manifest.h>

#include "base/join.h"
#include "base/parse_json.h"
#include "manifest/field.h"
#include "manifest/parse_format.h"
#include "manifest/parse_method.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace torchship {
namespace {

// Lookups are by name, never along a list: the manifest comes from outside, and any of its lists
// may have a million items.
using Names = std::set<std::string_view>;

void collect(const Node& node, std::vector<const Node*>& found) {
  if (node.is_leaf()) found.push_back(&node);
  for (const Node& item : node.items) collect(item, found);
}

/// ^[A-Za-z0-9][A-Za-z0-9_.-]*$
std::string parse_name(const Field& field) {
  constexpr std::string_view allowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  std::string name = field.string();
  const bool first_fits = !name.empty() && allowed.find(name.front()) < allowed.find('_');
  if (!first_fits || name.find_first_not_of(allowed) != std::string::npos) {
    field.fail("expected letters, digits, '_', '.' and '-', a letter or digit first, got '" + name +
               "'");
  }
  return name;
}

/// ^[A-Za-z_][A-Za-z0-9_]*$
bool is_identifier(std::string_view text) {
  constexpr std::string_view allowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
  return !text.empty() && allowed.find(text.front()) < allowed.find('0') &&
         text.find_first_not_of(allowed) == std::string_view::npos;
}

CustomOperator parse_operator(const Field& field, std::set<std::string>& names) {
  constexpr std::size_t longest_name = 200;
  constexpr std::size_t longest_library = 100;
  field.only({"name", "library"});
  CustomOperator op{.name = field.at("name").string(), .library = parse_name(field.at("library"))};
  const auto colons = op.name.find("::");
  if (colons == std::string::npos || op.name.size() > longest_name ||
      !is_identifier(std::string_view(op.name).substr(0, colons)) ||
      !is_identifier(std::string_view(op.name).substr(colons + 2))) {
    field.at("name").fail("expected namespace::operator, of at most " +
                          std::to_string(longest_name) + " letters, got '" + op.name + "'");
  }
  if (op.library.size() > longest_library) {
    field.at("library").fail("expected at most " + std::to_string(longest_library) +
                             " letters, got " + std::to_string(op.library.size()));
  }
  if (!names.insert(op.name).second) {
    field.at("name").fail("the custom operator '" + op.name + "' occurs twice");
  }
  return op;
}

std::vector<std::string> parse_strings(const Field& field) {
  std::vector<std::string> strings;
  for (const Field& item : field.list()) strings.push_back(item.string());
  return strings;
}

GoldenCase parse_golden(const Field& field, const Names& methods) {
  field.only({"name", "method", "steps"});
  GoldenCase golden{.name = field.at("name").string(),
                    .method = field.at("method").string(),
                    .steps = field.at("steps").count("a number of steps")};
  if (golden.steps < 1) field.at("steps").fail("expected 1 or more");
  if (!methods.contains(golden.method)) {
    field.at("method").fail("there is no method '" + golden.method + "'");
  }
  return golden;
}

void parse_labels(const Field& field, Manifest& manifest) {
  Names outputs;
  for (const Method& method : manifest.methods) {
    for (const Node* leaf : leaves(method.outputs)) outputs.insert(leaf->name);
  }
  for (const auto& [output, names] : field.object()) {
    if (!outputs.contains(output)) names.fail("there is no output '" + output + "'");
    manifest.labels[output] = parse_strings(names);
  }
}

void parse_operators(const Field& field, Manifest& manifest) {
  std::set<std::string> names;
  for (const Field& entry : field.list()) {
    manifest.custom_ops.push_back(parse_operator(entry, names));
  }
}

std::string dimension_text(const Dimension& dimension) {
  if (const auto* size = std::get_if<std::int64_t>(&dimension)) return std::to_string(*size);
  if (const auto* symbol = std::get_if<std::string>(&dimension)) return *symbol;
  return "?";
}

}  // namespace

std::vector<const Node*> leaves(const Node& node) {
  std::vector<const Node*> found;
  collect(node, found);
  return found;
}

bool matches(std::string_view pattern, std::string_view name) {
  while (true) {
    const auto star = pattern.find('*');
    if (star == std::string_view::npos) return pattern == name;
    if (name.substr(0, star) != pattern.substr(0, star)) return false;
    name.remove_prefix(star);
    pattern.remove_prefix(star + 1);
    const auto length = std::min(name.find('.'), name.size());
    if (length == 0) return false;
    name.remove_prefix(length);
  }
}

std::string describe(const Node& leaf) {
  switch (leaf.kind) {
    case Node::Kind::integer:
      return "int64[]";
    case Node::Kind::real:
      return "float64[]";
    case Node::Kind::boolean:
      return "bool[]";
    case Node::Kind::string:
      return "a string (uint8[bytes])";
    default:
      break;
  }
  if (!leaf.dtype || !leaf.shape) return "a tensor";
  return dtype_name(*leaf.dtype) + "[" + join(*leaf.shape, ",", dimension_text) + "]";
}

bool Method::is_state_input(std::string_view leaf) const {
  return std::ranges::any_of(state, [leaf](const State& s) { return s.input == leaf; });
}

bool Method::is_state_output(std::string_view leaf) const {
  return std::ranges::any_of(state, [leaf](const State& s) { return s.output == leaf; });
}

const Method* Manifest::find_method(std::string_view wanted) const {
  const auto found = std::ranges::find(methods, wanted, &Method::name);
  return found == methods.end() ? nullptr : &*found;
}

Manifest parse_manifest(std::string_view text) {
  nlohmann::ordered_json json;
  try {
    json = parse_json(text);
  } catch (const std::invalid_argument& error) {
    refuse_huge_format(text);
    throw ArchiveError(std::string("the manifest is no JSON: ") + error.what());
  }
  const Field root(json);
  Manifest manifest;
  manifest.format = parse_format(root.at("format"), text);
  root.only({"format", "name", "version", "description", "source", "torch", "mode", "parameters",
             "methods", "golden", "labels", "metrics", "custom_ops", "records"});
  manifest.name = parse_name(root.at("name"));
  manifest.version = parse_name(root.at("version"));
  if (root.has("description")) manifest.description = root.at("description").string();
  const Field source = root.at("source");
  source.only({"factory", "kwargs", "git_commit", "compiled"});
  manifest.source.factory = source.at("factory").string();
  if (source.has("kwargs")) {
    static_cast<void>(source.at("kwargs").object());
    manifest.source.kwargs = source.at("kwargs").dump();
  }
  if (source.given("git_commit")) manifest.source.git_commit = source.at("git_commit").string();
  if (source.given("compiled")) manifest.source.compiled = parse_strings(source.at("compiled"));
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
  Names methods;
  for (const Method& method : manifest.methods) methods.insert(method.name);
  for (const Field& entry : root.at("golden").list()) {
    manifest.golden.push_back(parse_golden(entry, methods));
  }
  if (root.has("labels")) parse_labels(root.at("labels"), manifest);
  if (root.has("metrics")) {
    for (const auto& [name, value] : root.at("metrics").object()) {
      manifest.metrics.emplace_back(name, value.number());
    }
  }
  if (root.has("custom_ops")) parse_operators(root.at("custom_ops"), manifest);
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

#include <torchship/error.h>
#include <torchship/manifest.h>

#include "bytes.h"
#include "manifest_fields.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace torchship {
namespace {

// Whatever is looked up is looked up by name, never along a list: the manifest comes from outside,
// and may say anything a million times.
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

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// What was written for `format`, if that is an integer too large for nlohmann::json to keep it.
class HugeFormat : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::string digits;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t& text) override { return look(text); }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_ > 0; }
  bool end_object() override { return --depth_ >= 0; }
  bool start_array(std::size_t) override { return ++depth_ > 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(string_t& name) override {
    if (depth_ == 1) at_format_ = name == "format";
    return true;
  }
  /// Also called with a number that not even a double can hold.
  bool parse_error(std::size_t, const std::string& token,
                   const nlohmann::detail::exception&) override {
    look(token);
    return false;
  }

 private:
  bool look(const std::string& text) {
    if (depth_ == 1 && at_format_ && is_digits(text)) digits = text;
    return digits.empty();
  }

  int depth_ = 0;
  bool at_format_ = false;
};

[[noreturn]] void newer_format(const std::string& number) {
  throw FormatError("the archive has format " + number +
                    ", and this torchship reads formats up to " + std::to_string(archive_format) +
                    ": update torchship, or export the model again");
}

void refuse_huge_format(std::string_view text) {
  HugeFormat format;
  nlohmann::json::sax_parse(text, &format);
  if (!format.digits.empty()) newer_format(format.digits);
}

std::int64_t parse_format(const Field& format, std::string_view text) {
  if (format.is_number_float()) refuse_huge_format(text);
  if (format.is_above_int64()) newer_format(format.dump());
  const std::int64_t number = format.count("a format number");
  if (number > archive_format) newer_format(std::to_string(number));
  if (number != archive_format) format.fail("there is no such format");
  return number;
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
  Leaves outputs;
  for (const Method& method : manifest.methods) add_leaves(method.outputs, outputs);
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

}  // namespace

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

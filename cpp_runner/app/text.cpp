#include "text.h"

#include "base/join.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace torchship::app {
namespace {

std::string node_text(const Node& node);

/// The members of a dict, `name: value`; of one with any keys `*: value`.
std::string members_text(const Node& node) {
  std::vector<std::string> members;
  members.reserve(node.items.size());
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    members.push_back((node.variadic ? "*" : node.keys[i]) + ": " + node_text(node.items[i]));
  }
  return join(members, ", ");
}

std::string node_text(const Node& node) {
  const auto items = [&node] { return join(node.items, ", ", node_text); };
  switch (node.kind) {
    case Node::Kind::tensor:
      return describe(node);
    case Node::Kind::integer:
      return "int";
    case Node::Kind::real:
      return "float";
    case Node::Kind::boolean:
      return "bool";
    case Node::Kind::string:
      return "str";
    case Node::Kind::tuple:
      return "(" + items() + ")";
    case Node::Kind::list:
      return "[" + items() + (node.variadic ? ", ...]" : "]");
    case Node::Kind::dict:
      return "{" + members_text(node) + "}";
    case Node::Kind::optional:
      return node_text(node.items.front()) + "?";
    case Node::Kind::none:
      break;
  }
  return "None";
}

/// Outputs by their flat names: `logits: float32[batch,23], h: float32[batch,128]`.
std::string outputs_text(const Method& method) {
  return join(leaves(method.outputs), ", ",
              [](const Node* leaf) { return leaf->name + ": " + describe(*leaf); });
}

std::string argument_text(const Argument& argument) {
  // Where the flat names start: the argument's name, or its position in plain TorchScript.
  const auto parts = leaves(argument.value);
  const std::string name = parts.empty() ? argument.name : parts.front()->name;
  return name.substr(0, name.find('.')) + ": " + node_text(argument.value) +
         (argument.required ? "" : " = default");
}

}  // namespace

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      // Nothing follows the last cell, and one of the others may be very long.
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    line.resize(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string signature_line(const Method& method) {
  return method.name + "(" + join(method.inputs, ", ", argument_text) + ") -> " +
         outputs_text(method);
}

nlohmann::ordered_json finite_or_null(const std::optional<double>& number) {
  if (!number || !std::isfinite(*number)) return nullptr;
  return *number;
}

std::string short_number(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", number);
  return text;
}

}  // namespace torchship::app

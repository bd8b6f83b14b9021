#include "manifest/parse_node.h"

#include <torchship/dtype.h>

#include <map>

namespace torchship {
namespace {

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

std::vector<Node> parse_items(const Field& field) {
  std::vector<Node> items;
  for (const Field& item : field.list()) items.push_back(parse_node(item));
  return items;
}

void parse_tensor(const Field& field, Node& node) {
  field.only({"kind", "name", "dtype", "shape"});
  const Field dtype = field.at("dtype");
  node.dtype = dtype_from_name(dtype.string());
  if (!node.dtype) dtype.fail("unknown dtype '" + dtype.string() + "'");
  node.shape.emplace();
  for (const Field& entry : field.at("shape").list()) {
    node.shape->push_back(parse_dimension(entry));
  }
}

void parse_tuple(const Field& field, Node& node) {
  field.only({"kind", "items", "fields"});
  node.items = parse_items(field.at("items"));
  if (!field.given("fields")) return;
  const Field fields = field.at("fields");
  for (const Field& name : fields.list()) static_cast<void>(name.string());
  if (fields.list().size() != node.items.size()) fields.fail("fields and items differ in number");
}

/// Reads `element`, which excludes `items` and `keys`; false where there is none.
bool parse_element(const Field& field, Node& node) {
  if (!field.given("element")) return false;
  for (const char* other : {"items", "keys"}) {
    if (field.given(other)) field.at(other).fail("there is an 'element' as well");
  }
  node.variadic = true;
  node.items.push_back(parse_node(field.at("element")));
  return true;
}

void parse_list(const Field& field, Node& node) {
  field.only({"kind", "items", "element"});
  if (!parse_element(field, node)) node.items = parse_items(field.at("items"));
}

void parse_dict(const Field& field, Node& node) {
  field.only({"kind", "keys", "items", "element"});
  if (parse_element(field, node)) return;
  for (const Field& key : field.at("keys").list()) node.keys.push_back(key.string());
  node.items = parse_items(field.at("items"));
  if (node.keys.size() != node.items.size()) {
    field.at("keys").fail("keys and items differ in number");
  }
}

}  // namespace

// The recursion is bounded: parse_json refuses text that is nested too deep.
Node parse_node(const Field& field) {
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
    case Node::Kind::tensor:
      parse_tensor(field, node);
      break;
    case Node::Kind::tuple:
      parse_tuple(field, node);
      break;
    case Node::Kind::list:
      parse_list(field, node);
      break;
    case Node::Kind::dict:
      parse_dict(field, node);
      break;
    case Node::Kind::optional:
      field.only({"kind", "item"});
      node.items.push_back(parse_node(field.at("item")));
      break;
    case Node::Kind::none:
      field.only({"kind"});
      break;
    default:
      field.only({"kind", "name"});
      break;
  }
  return node;
}

}  // namespace torchship

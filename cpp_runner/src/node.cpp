// The value tree: its leaves and their names.

#include <torchship/dtype.h>
#include <torchship/manifest.h>

#include <algorithm>

namespace torchship {
namespace {

void collect(const Node& node, std::vector<const Node*>& found) {
  if (node.is_leaf()) found.push_back(&node);
  for (const Node& item : node.items) collect(item, found);
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
  std::string text = dtype_name(*leaf.dtype) + "[";
  for (const Dimension& dimension : *leaf.shape) {
    if (text.back() != '[') text += ',';
    if (const auto* size = std::get_if<std::int64_t>(&dimension)) {
      text += std::to_string(*size);
    } else if (const auto* symbol = std::get_if<std::string>(&dimension)) {
      text += *symbol;
    } else {
      text += '?';
    }
  }
  return text + "]";
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

}  // namespace torchship

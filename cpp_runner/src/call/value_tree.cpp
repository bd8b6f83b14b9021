#include "call/value_tree.h"

#include <torchship/dtype.h>
#include <torchship/error.h>

#include "io/plain_tensor.h"

#include <ATen/core/jit_type.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <set>

namespace torchship {
namespace {

using c10::IValue;
using c10::TypePtr;
using Stars = std::vector<std::string>;

/// A leaf's name with its `*`s replaced, the first one first.
std::string fill(std::string name, const Stars& stars) {
  for (const std::string& star : stars) {
    const auto at = name.find('*');
    if (at != std::string::npos) name.replace(at, 1, star);
  }
  return name;
}

/// The type as a T, also when it is a T or None.
template <typename T>
std::shared_ptr<T> as(const TypePtr& type) {
  if (const auto optional = type->cast<c10::OptionalType>()) {
    return as<T>(optional->getElementType());
  }
  if (const auto exact = type->cast<T>()) return exact;
  if (const auto choice = type->cast<c10::UnionType>()) {
    for (const TypePtr& member : choice->containedTypes()) {
      if (const auto found = as<T>(member)) return found;
    }
  }
  throw ArchiveError("the manifest and the model disagree: the model takes a " + type->repr_str());
}

class Builder {
 public:
  explicit Builder(const TensorMap& given) : given_(given) {}

  Built build(const Node& node, const TypePtr& type, const Stars& stars) const {
    switch (node.kind) {
      case Node::Kind::none:
        return {IValue(), ""};
      case Node::Kind::optional: {
        if (!any_given(node, stars)) return {IValue(), ""};
        const auto optional = type->cast<c10::OptionalType>();
        return build(node.items.front(), optional ? optional->getElementType() : type, stars);
      }
      case Node::Kind::tuple:
        return build_tuple(node, as<c10::TupleType>(type), stars);
      case Node::Kind::list:
        return build_list(node, as<c10::ListType>(type)->getElementType(), stars);
      case Node::Kind::dict:
        return build_dict(node, as<c10::DictType>(type)->getValueType(), stars);
      default:
        return build_leaf(node, stars);
    }
  }

 private:
  Built build_leaf(const Node& node, const Stars& stars) const {
    const auto found = given_.find(fill(node.name, stars));
    if (found == given_.end()) return {std::nullopt, fill(node.name, stars)};
    const at::Tensor& tensor = found->second;
    switch (node.kind) {
      case Node::Kind::integer:
        return {IValue(tensor.item().toLong()), ""};
      case Node::Kind::real:
        return {IValue(tensor.item().toDouble()), ""};
      case Node::Kind::boolean:
        return {IValue(tensor.item().toBool()), ""};
      case Node::Kind::string:
        return {IValue(std::string(static_cast<const char*>(tensor.const_data_ptr()),
                                   static_cast<std::size_t>(tensor.numel()))),
                ""};
      default:
        return {IValue(tensor), ""};
    }
  }

  Built build_tuple(const Node& node, const c10::TupleTypePtr& type, const Stars& stars) const {
    if (type->elements().size() != node.items.size()) {
      throw ArchiveError("the manifest and the model disagree about the length of a tuple");
    }
    std::vector<IValue> items;
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      Built item = build(node.items[i], type->elements()[i], stars);
      if (!item.value) return item;
      items.push_back(std::move(*item.value));
    }
    if (type->schema()) return {c10::ivalue::Tuple::createNamed(std::move(items), type), ""};
    return {c10::ivalue::Tuple::create(std::move(items)), ""};
  }

  Built build_list(const Node& node, const TypePtr& element, const Stars& stars) const {
    c10::impl::GenericList list(element);
    const std::size_t length = node.variadic ? star_values(node, stars).size() : node.items.size();
    for (std::size_t i = 0; i < length; ++i) {
      const Node& part = node.variadic ? node.items.front() : node.items[i];
      Built item = build(part, element, node.variadic ? with(stars, std::to_string(i)) : stars);
      if (!item.value) return item;
      list.push_back(std::move(*item.value));
    }
    return {IValue(list), ""};
  }

  Built build_dict(const Node& node, const TypePtr& element, const Stars& stars) const {
    c10::impl::GenericDict dict(c10::StringType::get(), element);
    const std::vector<std::string> keys = node.variadic ? star_values(node, stars) : node.keys;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const Node& part = node.variadic ? node.items.front() : node.items[i];
      Built item = build(part, element, node.variadic ? with(stars, keys[i]) : stars);
      if (!item.value) return item;
      dict.insert(keys[i], std::move(*item.value));
    }
    return {IValue(dict), ""};
  }

  static Stars with(Stars stars, std::string star) {
    stars.push_back(std::move(star));
    return stars;
  }

  bool any_given(const Node& node, const Stars& stars) const {
    return std::ranges::any_of(leaves(node), [&](const Node* leaf) {
      const std::string pattern = fill(leaf->name, stars);
      return std::ranges::any_of(given_,
                                 [&](const auto& item) { return matches(pattern, item.first); });
    });
  }

  /// What the next `*` stands for in the names given, sorted.
  std::vector<std::string> star_values(const Node& node, const Stars& stars) const {
    std::set<std::string> found;
    for (const Node* leaf : leaves(node.items.front())) {
      const std::string pattern = fill(leaf->name, stars);
      const auto star = pattern.find('*');
      for (const auto& [name, tensor] : given_) {
        if (matches(pattern, name)) found.insert(name.substr(star, name.find('.', star) - star));
      }
    }
    return {found.begin(), found.end()};
  }

  const TensorMap& given_;
};

void flatten(const Node& node, const IValue& value, bool shared, const Stars& stars,
             TensorMap& flat);

[[noreturn]] void wrong_structure(const std::string& promised, const IValue& value) {
  throw OutputError("the model returned a " + value.type()->repr_str() + " where " + promised +
                    " was promised");
}

void flatten_leaf(const Node& node, const IValue& value, bool shared, const Stars& stars,
                  TensorMap& flat) {
  const std::string name = fill(node.name, stars);
  at::Tensor tensor;
  if (value.isTensor()) {
    tensor = value.toTensor();
  } else if (node.kind != Node::Kind::tensor && value.isScalar()) {
    tensor = at::scalar_tensor(value.toScalar(), value.isInt()    ? at::kLong
                                                 : value.isBool() ? at::kBool
                                                                  : at::kDouble);
  } else if (node.kind != Node::Kind::tensor && value.isString()) {
    tensor = tensor_from_string(value.toStringRef());
  } else {
    wrong_structure("the tensor '" + name + "'", value);
  }
  if (!tensor.defined() || tensor.layout() != at::kStrided || !find_dtype(tensor.scalar_type())) {
    throw OutputError("output '" + name + "' is no dense tensor of numbers");
  }
  // Two references are `value` and `tensor`; any more is another owner.
  flat.emplace(name, owned(tensor, shared || tensor.use_count() > 2));
}

void flatten_dict(const Node& node, const IValue& value, bool shared, const Stars& stars,
                  TensorMap& flat) {
  if (!value.isGenericDict()) wrong_structure("a dict", value);
  const auto dict = value.toGenericDict();
  if (node.variadic) {
    for (const auto& item : dict) {
      Stars inner = stars;
      inner.push_back(item.key().toStringRef());
      flatten(node.items.front(), item.value(), shared, inner, flat);
    }
    return;
  }
  if (dict.size() != node.keys.size()) wrong_structure("a dict of other keys", value);
  for (std::size_t i = 0; i < node.keys.size(); ++i) {
    const auto item = dict.find(node.keys[i]);
    if (item == dict.end()) wrong_structure("a dict with the key '" + node.keys[i] + "'", value);
    flatten(node.items[i], item->value(), shared, stars, flat);
  }
}

/// `shared`: something else holds a container around the value.
void flatten(const Node& node, const IValue& value, bool shared, const Stars& stars,
             TensorMap& flat) {
  const bool container = value.isTuple() || value.isList() || value.isGenericDict();
  shared = shared || (container && value.use_count() > 1);
  switch (node.kind) {
    case Node::Kind::none:
      if (!value.isNone()) wrong_structure("None", value);
      return;
    case Node::Kind::optional:
      if (!value.isNone()) flatten(node.items.front(), value, shared, stars, flat);
      return;
    case Node::Kind::dict:
      return flatten_dict(node, value, shared, stars, flat);
    case Node::Kind::tuple:
    case Node::Kind::list: {
      const bool tuple = node.kind == Node::Kind::tuple;
      if (tuple ? !value.isTuple() : !value.isList()) {
        wrong_structure(tuple ? "a tuple" : "a list", value);
      }
      const c10::ArrayRef<IValue> parts =
          tuple ? c10::ArrayRef<IValue>(value.toTupleRef().elements()) : value.toListRef();
      if (!node.variadic && parts.size() != node.items.size()) {
        wrong_structure(std::to_string(node.items.size()) + " items", value);
      }
      for (std::size_t i = 0; i < parts.size(); ++i) {
        Stars inner = stars;
        if (node.variadic) inner.push_back(std::to_string(i));
        flatten(node.items[node.variadic ? 0 : i], parts[i], shared, inner, flat);
      }
      return;
    }
    default:
      return flatten_leaf(node, value, shared, stars, flat);
  }
}

}  // namespace

Built build_value(const Node& node, const TypePtr& type, const TensorMap& given) {
  return Builder(given).build(node, type, {});
}

TensorMap flatten_value(const Node& node, const IValue& value) {
  TensorMap flat;
  flatten(node, value, false, {}, flat);
  return flat;
}

}  // namespace torchship

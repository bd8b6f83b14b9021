#include "call/methods.h"

#include <torchship/error.h>

#include "base/join.h"

#include <ATen/core/jit_type.h>
#include <torch/csrc/jit/api/module.h>

namespace torchship {
namespace {

std::string method_names(const torch::jit::Module& module) {
  return join(module.get_methods(), ", ", [](const auto& method) { return method.name(); });
}

Node node_from_type(const c10::TypePtr& type, const std::string& name) {
  Node node;
  node.name = name;
  const auto part = [&name](const std::string& suffix) { return name + "." + suffix; };
  if (type->isSubtypeOf(*c10::TensorType::get())) {
    node.kind = Node::Kind::tensor;
  } else if (type->kind() == c10::TypeKind::IntType) {
    node.kind = Node::Kind::integer;
  } else if (type->kind() == c10::TypeKind::FloatType ||
             type->kind() == c10::TypeKind::NumberType) {
    node.kind = Node::Kind::real;
  } else if (type->kind() == c10::TypeKind::BoolType) {
    node.kind = Node::Kind::boolean;
  } else if (type->kind() == c10::TypeKind::StringType) {
    node.kind = Node::Kind::string;
  } else if (const auto optional = type->cast<c10::OptionalType>()) {
    node.kind = Node::Kind::optional;
    node.items.push_back(node_from_type(optional->getElementType(), name));
  } else if (const auto tuple = type->cast<c10::TupleType>()) {
    node.kind = Node::Kind::tuple;
    for (std::size_t i = 0; i < tuple->elements().size(); ++i) {
      const std::string item =
          tuple->schema() ? tuple->schema()->arguments()[i].name() : std::to_string(i);
      node.items.push_back(node_from_type(tuple->elements()[i], part(item)));
    }
  } else if (const auto list = type->cast<c10::ListType>()) {
    node.kind = Node::Kind::list;
    node.variadic = true;
    node.items.push_back(node_from_type(list->getElementType(), part("*")));
  } else if (const auto dict = type->cast<c10::DictType>();
             dict && dict->getKeyType()->kind() == c10::TypeKind::StringType) {
    node.kind = Node::Kind::dict;
    node.variadic = true;
    node.items.push_back(node_from_type(dict->getValueType(), part("*")));
  } else if (type->kind() != c10::TypeKind::NoneType) {
    throw UsageError("'" + name + "' is a " + type->repr_str() + ", which has no flat form");
  }
  return node;
}

}  // namespace

Method find_method(const std::string& model, const Manifest* manifest,
                   const torch::jit::Module& module, const std::string& name) {
  const auto unknown = [&](const std::string& names) {
    return UsageError("model '" + model + "' has no method '" + name + "'; it has " + names);
  };
  if (manifest != nullptr) {
    const Method* method = manifest->find_method(name);
    if (method == nullptr) throw unknown(join(manifest->methods, ", ", &Method::name));
    if (!module.find_method(name)) {
      throw ArchiveError("the manifest's method '" + name + "' is not in the model; it has " +
                         method_names(module));
    }
    return *method;
  }
  const auto method = module.find_method(name);
  if (!method) throw unknown(method_names(module));
  return method_from_schema(name, method->function().getSchema());
}

Method method_from_schema(const std::string& name, const c10::FunctionSchema& schema) {
  Method method;
  method.name = name;
  for (std::size_t i = 1; i < schema.arguments().size(); ++i) {  // 0 is self
    const c10::Argument& argument = schema.arguments()[i];
    method.inputs.push_back(
        {.name = argument.name(),
         .required = !argument.default_value().has_value(),
         .value = node_from_type(argument.type(), "arr_" + std::to_string(i - 1))});
  }
  method.outputs = node_from_type(schema.returns().at(0).type(), "output");
  return method;
}

}  // namespace torchship

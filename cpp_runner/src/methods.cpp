#include "methods.h"

#include <torchship/error.h>
#include <torchship/session.h>

#include "value_tree.h"

#include <torch/csrc/jit/api/module.h>

namespace torchship {
namespace {

std::string method_names(const torch::jit::Module& module) {
  std::string names;
  for (const auto& method : module.get_methods()) {
    names += (names.empty() ? "" : ", ") + method.name();
  }
  return names;
}

std::string method_names(const Manifest& manifest) {
  std::string names;
  for (const Method& method : manifest.methods) names += (names.empty() ? "" : ", ") + method.name;
  return names;
}

}  // namespace

Method find_method(const Archive& archive, const torch::jit::Module& module,
                   const std::string& name) {
  const auto unknown = [&](const std::string& names) {
    return UsageError("model '" + archive.name() + "' has no method '" + name + "'; it has " +
                      names);
  };
  if (const Manifest* manifest = archive.manifest()) {
    const Method* method = manifest->find_method(name);
    if (method == nullptr) throw unknown(method_names(*manifest));
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

Methods methods_of(const Archive& archive) {
  if (const Manifest* manifest = archive.manifest()) {
    return {.callable = manifest->methods, .not_callable = {}};
  }
  Methods methods;
  const auto module = archive.module();
  for (const auto& method : module->get_methods()) {
    try {
      methods.callable.push_back(method_from_schema(method.name(), method.function().getSchema()));
    } catch (const UsageError&) {
      methods.not_callable.push_back(method.name());  // takes what no file can carry
    }
  }
  return methods;
}

}  // namespace torchship

#pragma once

/// Methods by name. Internal.

#include <torchship/manifest.h>

#include <ATen/core/function_schema.h>

#include <string>

namespace torch::jit {
struct Module;
}

namespace torchship {

/// The signature of that method of the module: the manifest's, or, where `manifest` is null, the
/// one that its schema tells. Raises UsageError when there is no such method, and ArchiveError when
/// the manifest has one that the module has not. `model` is what messages call it.
Method find_method(const std::string& model, const Manifest* manifest,
                   const torch::jit::Module& module, const std::string& name);

/// The signature of a method that no manifest describes: inputs are `arr_0`, `arr_1`, ..., of any
/// dtype and shape. Raises UsageError for types that have no flat form.
Method method_from_schema(const std::string& name, const c10::FunctionSchema& schema);

}  // namespace torchship

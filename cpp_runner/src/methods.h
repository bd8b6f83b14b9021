#pragma once

/// Methods by name. Internal.

#include <torchship/archive.h>
#include <torchship/manifest.h>

#include <string>

namespace torchship {

/// The signature of that method of the archive's module: the manifest's, or for plain TorchScript
/// the one that its schema tells. Raises UsageError when there is no such method, and ArchiveError
/// when the manifest has one that the module has not.
Method find_method(const Archive& archive, const torch::jit::Module& module,
                   const std::string& name);

}  // namespace torchship

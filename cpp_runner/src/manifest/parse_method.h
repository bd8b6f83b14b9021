#pragma once

/// A method's signature in the manifest. Internal.

#include <torchship/manifest.h>

#include "manifest/field.h"

#include <string>

namespace torchship {

/// Arguments, outputs, state and tolerances, and that they fit one another. Raises ArchiveError,
/// which names the field.
Method parse_method(const std::string& name, const Field& field);

}  // namespace torchship

#pragma once

/// The value tree of the manifest's signatures. Internal.

#include <torchship/manifest.h>

#include "manifest/field.h"

namespace torchship {

/// A node and everything below it. Raises ArchiveError, which names the field.
Node parse_node(const Field& field);

}  // namespace torchship

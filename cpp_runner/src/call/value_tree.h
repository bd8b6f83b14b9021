#pragma once

/// Nested TorchScript values and their flat, named leaves. Internal.

#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <ATen/core/ivalue.h>

#include <optional>
#include <string>

namespace torchship {

/// An assembled value, or the first leaf that it would need.
struct Built {
  std::optional<c10::IValue> value;
  std::string missing;
};

/// Assembles a value of the schema's `type` (NamedTuple, List[T], Dict[str, T], Optional, numbers,
/// strings) from flat leaves whose dtypes and shapes have been checked. Raises ArchiveError where
/// the node and the type do not fit each other.
Built build_value(const Node& node, const c10::TypePtr& type, const TensorMap& leaves);

/// The flat leaves of a result, contiguous and in memory of their own. Raises OutputError where its
/// structure is not the node's.
TensorMap flatten_value(const Node& node, const c10::IValue& value);

}  // namespace torchship

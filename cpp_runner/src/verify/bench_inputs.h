#pragma once

/// Inputs to measure with, made of golden cases. Internal.

#include <torchship/archive.h>
#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include <cstdint>
#include <optional>

namespace torchship {

/// The inputs of the method's first golden case that has rows to repeat. Raises UsageError where
/// there is none.
const TensorMap& golden_inputs(const Archive& archive, const Method& method);

/// The inputs with every `batch` of the given size, rows repeated or cut; as they are if no input
/// has one and the size is 1. Raises UsageError if no input has one and the size is another.
TensorMap with_batch(const Method& method, const TensorMap& inputs, std::int64_t size);

}  // namespace torchship

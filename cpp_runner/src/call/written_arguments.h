#pragma once

/// Which arguments a method may overwrite. Internal.

#include <ATen/core/function.h>

#include <vector>

namespace torchship {

/// By position in the schema, 0 being the module: whether the method's code may write to the
/// argument's memory, for any value. True where that cannot be told. Slow for large methods.
std::vector<bool> written_arguments(torch::jit::Function& function);

}  // namespace torchship

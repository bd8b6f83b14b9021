#include "verify/bench_inputs.h"

#include <torchship/error.h>

#include "call/input_check.h"

#include <ATen/ops/arange.h>

#include <algorithm>

namespace torchship {
namespace {

/// Every dimension `batch` of these inputs, as an input's name and the dimension's index.
std::vector<std::pair<std::string, std::int64_t>> batch_dimensions(const Method& method,
                                                                   const TensorMap& inputs) {
  std::vector<std::pair<std::string, std::int64_t>> found;
  for (const auto& [name, tensor] : inputs) {
    const Node* leaf = find_input(method, name);
    if (leaf == nullptr || !leaf->shape) continue;
    for (std::size_t i = 0; i < leaf->shape->size(); ++i) {
      const auto* symbol = std::get_if<std::string>(&(*leaf->shape)[i]);
      const auto dimension = static_cast<std::int64_t>(i);
      if (symbol != nullptr && *symbol == batch_symbol && dimension < tensor.dim()) {
        found.emplace_back(name, dimension);
      }
    }
  }
  return found;
}

/// Repeats or cuts a dimension to `size`.
at::Tensor resized(const at::Tensor& tensor, std::int64_t dimension, std::int64_t size) {
  const at::Tensor rows =
      at::arange(size, at::TensorOptions(at::kLong)).remainder(tensor.size(dimension));
  return tensor.index_select(dimension, rows).contiguous();
}

}  // namespace

const TensorMap& golden_inputs(const Archive& archive, const Method& method) {
  const Manifest* manifest = archive.manifest();
  bool any = false;
  for (std::size_t i = 0; manifest != nullptr && i < manifest->golden.size(); ++i) {
    if (manifest->golden[i].method != method.name) continue;
    any = true;
    const TensorMap& inputs = archive.golden()[i].front().inputs;
    const auto empty = [&inputs](const auto& place) {
      return inputs.at(place.first).size(place.second) == 0;
    };
    if (std::ranges::none_of(batch_dimensions(method, inputs), empty)) return inputs;
  }
  if (any) {
    throw UsageError("model '" + archive.name() + "': every golden case of method '" + method.name +
                     "' is empty along 'batch', so there is nothing to repeat");
  }
  throw UsageError("model '" + archive.name() + "' has no golden case of method '" + method.name +
                   "' to take inputs from");
}

TensorMap with_batch(const Method& method, const TensorMap& inputs, std::int64_t size) {
  const auto dimensions = batch_dimensions(method, inputs);
  if (dimensions.empty() && size != 1) {
    throw UsageError("method '" + method.name + "' has no dimension 'batch' to set to " +
                     std::to_string(size));
  }
  TensorMap result = inputs;
  for (const auto& [name, dimension] : dimensions) {
    at::Tensor& tensor = result.at(name);
    tensor = resized(tensor, dimension, size);
  }
  return result;
}

}  // namespace torchship

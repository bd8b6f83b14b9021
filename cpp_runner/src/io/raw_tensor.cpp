#include "io/raw_tensor.h"

#include "base/bytes.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace torchship {

at::Tensor raw_tensor(at::ScalarType dtype, const std::vector<std::int64_t>& shape,
                      std::string_view bytes) {
  if (shape.size() > max_rank) {
    throw std::invalid_argument("its shape has " + std::to_string(shape.size()) +
                                " dimensions, expected at most " + std::to_string(max_rank));
  }
  // Strides are products of sizes, and LibTorch takes a size of 0 for 1 in them.
  std::optional<std::uint64_t> product = c10::elementSize(dtype);
  for (const std::int64_t size : shape) {
    if (product) product = multiply(*product, static_cast<std::uint64_t>(std::max(size, {1})));
  }
  if (!product || *product > INT64_MAX) throw std::invalid_argument("its shape is too large");
  // Reading any other byte as a bool is undefined.
  if (dtype == at::kBool && std::ranges::any_of(bytes, [](char c) { return c != 0 && c != 1; })) {
    throw std::invalid_argument("it holds a boolean that is neither 0 nor 1");
  }
  at::Tensor tensor = at::empty(shape, at::TensorOptions(dtype));
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

}  // namespace torchship

#include "c_api/c_tensors.h"

#include <torchship/dtype.h>
#include <torchship/error.h>

#include "base/join.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>

namespace torchship {
namespace {

// Indexed by torchship_dtype.
constexpr std::array<at::ScalarType, 13> types{
    at::kBool, at::kByte, at::kUInt16, at::kUInt32,   at::kUInt64, at::kChar,  at::kShort,
    at::kInt,  at::kLong, at::kHalf,   at::kBFloat16, at::kFloat,  at::kDouble};
static_assert(types[TORCHSHIP_FLOAT64] == at::kDouble && types[TORCHSHIP_INT8] == at::kChar);

constexpr std::int32_t most_dimensions = 64;

/// The tensor's number of elements, and by how many bytes the last lies behind the first.
struct Extent {
  std::int64_t elements = 1;
  std::int64_t last = 0;
};

std::int64_t to_c(at::ScalarType type) {
  return std::ranges::find(types, type) - types.begin();
}

Extent extent_of(const torchship_tensor& tensor, std::int64_t item, const std::string& what) {
  const auto too_large = [&] {
    return InputError(what + ": its shape and strides go beyond what memory can hold");
  };
  Extent extent;
  for (std::int32_t i = 0; i < tensor.rank; ++i) {
    const std::int64_t size = tensor.shape[i];
    if (size < 0) {
      throw InputError(what + ": dimension " + std::to_string(i) + " is " + std::to_string(size) +
                       ", expected 0 or more");
    }
    if (__builtin_mul_overflow(extent.elements, size, &extent.elements)) throw too_large();
    if (tensor.strides == nullptr || size == 0) continue;
    const std::int64_t stride = tensor.strides[i];
    if (stride < 0) {
      throw InputError(what + ": stride " + std::to_string(i) + " is " + std::to_string(stride) +
                       ", expected 0 or more");
    }
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(size - 1, stride, &reach) ||
        __builtin_add_overflow(extent.last, reach, &extent.last)) {
      throw too_large();
    }
  }
  if (tensor.strides == nullptr) extent.last = std::max<std::int64_t>(extent.elements - 1, 0);
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(extent.last, item, &bytes) || bytes > INT64_MAX - item) {
    throw too_large();
  }
  return extent;
}

at::Tensor borrow(const torchship_tensor& tensor, const std::string& what) {
  if (tensor.dtype < 0 || static_cast<std::size_t>(tensor.dtype) >= types.size()) {
    throw InputError(what + ": there is no dtype " + std::to_string(tensor.dtype));
  }
  if (tensor.rank < 0 || tensor.rank > most_dimensions) {
    throw InputError(what + ": rank " + std::to_string(tensor.rank) + ", expected 0 to " +
                     std::to_string(most_dimensions));
  }
  if (tensor.shape == nullptr && tensor.rank > 0) throw UsageError(what + ": its shape is NULL");
  const at::ScalarType type = types[static_cast<std::size_t>(tensor.dtype)];
  const auto item = static_cast<std::int64_t>(c10::elementSize(type));
  const Extent extent = extent_of(tensor, item, what);
  const auto rank = static_cast<std::size_t>(tensor.rank);
  const at::IntArrayRef shape(tensor.shape, rank);
  if (extent.elements == 0) return at::empty(shape, at::TensorOptions(type));
  if (tensor.data == nullptr) throw UsageError(what + ": its data is NULL");
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(item) != 0) {
    throw InputError(what + ": its data is not aligned to " + std::to_string(item) +
                     " bytes, the size of " + dtype_name(type));
  }
  // Never written to: where a model may overwrite an argument it gets a copy (call.cpp).
  void* data = const_cast<void*>(tensor.data);
  if (tensor.strides == nullptr) return at::from_blob(data, shape, at::TensorOptions(type));
  return at::from_blob(data, shape, at::IntArrayRef(tensor.strides, rank), at::TensorOptions(type));
}

/// The arrays of the C ABI, of inputs or buffers; `tensor_of` makes one a tensor.
template <typename Given, typename TensorOf>
TensorMap borrow_all(const std::string& kind, const Given* given, std::size_t count,
                     const TensorOf& tensor_of) {
  if (given == nullptr && count > 0) {
    throw UsageError(std::to_string(count) + " " + kind +
                     "s were announced, and their array is NULL");
  }
  check_at_most(kind + " count", count, most_in_one_call);
  TensorMap map;
  for (std::size_t i = 0; i < count; ++i) {
    if (given[i].name == nullptr) {
      throw UsageError(kind + " number " + std::to_string(i) + ": its name is NULL");
    }
    const std::string name = given[i].name;
    const std::string what = kind + " '" + name + "'";
    if (!map.emplace(name, borrow(tensor_of(given[i]), what)).second) {
      throw InputError(what + ": given twice");
    }
  }
  return map;
}

}  // namespace

TensorMap borrow(const torchship_tensor* tensors, std::size_t count) {
  return borrow_all("input", tensors, count, [](const torchship_tensor& tensor) { return tensor; });
}

Buffers::Buffers(const torchship_buffer* buffers, std::size_t count)
    : views_(borrow_all("output", buffers, count, [](const torchship_buffer& buffer) {
        return torchship_tensor{.name = buffer.name,
                                .dtype = buffer.dtype,
                                .rank = buffer.rank,
                                .shape = buffer.shape,
                                .strides = nullptr,
                                .data = buffer.data};
      })) {}

void Buffers::fill(const TensorMap& outputs) const {
  for (const auto& [name, view] : views_) {
    const auto output = outputs.find(name);
    if (output == outputs.end()) {
      throw UsageError("there is no output '" + name + "', only " +
                       join(outputs, ", ", &TensorMap::value_type::first));
    }
    if (output->second.scalar_type() != view.scalar_type() ||
        output->second.sizes() != view.sizes()) {
      throw InputError("output '" + name + "' is " + describe(output->second) +
                       ", the buffer given for it " + describe(view));
    }
  }
  for (const auto& [name, view] : views_) {
    if (view.nbytes() == 0) continue;
    std::memcpy(view.mutable_data_ptr(), outputs.at(name).const_data_ptr(), view.nbytes());
  }
}

LentTensors::LentTensors(TensorMap outputs) : tensors_(std::move(outputs)) {
  view_.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) {
    const std::int64_t dtype = to_c(tensor.scalar_type());
    if (dtype == std::ssize(types)) {
      throw OutputError("output '" + name + "' is " + dtype_name(tensor.scalar_type()) +
                        ", which C has no number for");
    }
    view_.push_back({.name = name.c_str(),
                     .dtype = static_cast<std::int32_t>(dtype),
                     .rank = static_cast<std::int32_t>(tensor.dim()),
                     .shape = tensor.sizes().data(),
                     .strides = nullptr,
                     .data = tensor.const_data_ptr()});
  }
}

}  // namespace torchship

// JSON numbers and nested lists to tensors and back, without a rounding that could be avoided.

#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/tensor_io.h>

#include "floating_point.h"
#include "plain_tensor.h"
#include "raw_tensor.h"

#include <ATen/Dispatch_v2.h>
#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace torchship {
namespace {

using nlohmann::json;

[[noreturn]] void fail(std::string_view what, const std::string& message) {
  throw InputError(std::string(what) + ": " + message);
}

/// The shape of nested lists, taken along the first element of each level.
std::vector<std::int64_t> shape_of(const json& value) {
  std::vector<std::int64_t> shape;
  const json* level = &value;
  while (level->is_array()) {
    shape.push_back(static_cast<std::int64_t>(level->size()));
    if (level->empty()) break;
    level = &level->front();
  }
  return shape;
}

/// Calls `leaf` for each number in order; refuses lists that are not of the first one's shape.
template <typename Leaf>
void walk(const json& value, std::span<const std::int64_t> shape, std::string_view what,
          const Leaf& leaf) {
  if (shape.empty()) {
    if (value.is_array()) fail(what, "its lists are nested unevenly");
    leaf(value);
    return;
  }
  if (!value.is_array() || static_cast<std::int64_t>(value.size()) != shape.front()) {
    fail(what, "its lists differ in length");
  }
  for (const json& item : value) walk(item, shape.subspan(1), what, leaf);
}

/// A float that rounds to the same number of fewer bits as `wide` does: towards zero, the last bit
/// set if anything was lost ("round to odd"), so that no second rounding meets a false tie.
float sticky_float(double wide) {
  auto narrow = static_cast<float>(wide);
  if (static_cast<double>(narrow) == wide) return narrow;
  if (std::abs(static_cast<double>(narrow)) > std::abs(wide)) {
    narrow = std::nextafter(narrow, 0.0F);
  }
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(narrow) | 1U);
}

template <typename T>
T number(const json& value, std::string_view what, at::ScalarType dtype) {
  const auto refuse = [&]() {
    fail(what, "expected " + dtype_name(dtype) + ", got " + value.dump());
  };
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) refuse();
    return value.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) {
      const auto wide = value.get<std::uint64_t>();
      if (!std::in_range<T>(wide)) refuse();
      return static_cast<T>(wide);
    }
    if (!value.is_number_integer()) refuse();
    const auto wide = value.get<std::int64_t>();
    if (!std::in_range<T>(wide)) refuse();
    return static_cast<T>(wide);
  } else {
    if (!value.is_number()) refuse();
    const auto wide = value.get<double>();
    if constexpr (std::is_same_v<T, double>) return wide;
    const auto narrow =
        static_cast<T>(std::is_same_v<T, float> ? static_cast<float>(wide) : sticky_float(wide));
    if (!std::isfinite(static_cast<float>(narrow))) refuse();
    return narrow;
  }
}

template <typename T>
json to_json(const T*& next, std::span<const std::int64_t> shape, std::string_view what) {
  if (shape.empty()) {
    const T value = *next++;
    if constexpr (std::is_integral_v<T>) {
      return value;
    } else {
      const auto wide = static_cast<double>(value);
      if (!std::isfinite(wide)) {
        throw EncodingError(std::string(what) + " holds " +
                            (std::isnan(wide) ? "NaN" : "infinity") +
                            ", which JSON cannot carry: write .npz or .safetensors");
      }
      return wide;  // printed with as many digits as give back the same double
    }
  }
  json list = json::array();
  for (std::int64_t i = 0; i < shape.front(); ++i) {
    list.push_back(to_json(next, shape.subspan(1), what));
  }
  return list;
}

}  // namespace

at::Tensor tensor_from_json(const json& value, at::ScalarType dtype, std::string_view what) {
  const DefaultFloatingPoint mode;
  const auto shape = shape_of(value);
  if (shape.size() > max_rank) fail(what, "its lists are nested deeper than 64");
  // The whole of it is walked before memory is asked for: a shape guessed from the first elements
  // may be far larger than what the JSON holds.
  walk(value, shape, what, [](const json&) {});
  at::Tensor tensor = at::empty(shape, at::TensorOptions(dtype));
  AT_DISPATCH_V2(dtype, "tensor_from_json", AT_WRAP([&] {
                   auto* next = tensor.mutable_data_ptr<scalar_t>();
                   walk(value, shape, what,
                        [&](const json& item) { *next++ = number<scalar_t>(item, what, dtype); });
                 }),
                 AT_EXPAND(AT_ALL_TYPES), AT_EXPAND(AT_BAREBONES_UNSIGNED_TYPES), at::kBool,
                 at::kHalf, at::kBFloat16);
  return tensor;
}

at::Tensor tensor_from_json(const json& value, std::string_view what) {
  const auto shape = shape_of(value);
  if (shape.size() > max_rank) fail(what, "its lists are nested deeper than 64");
  bool any_float = !shape.empty() && shape.back() == 0;
  bool all_bool = !any_float;
  walk(value, shape, what, [&](const json& item) {
    any_float = any_float || item.is_number_float();
    all_bool = all_bool && item.is_boolean();
  });
  return tensor_from_json(value, all_bool ? at::kBool : any_float ? at::kFloat : at::kLong, what);
}

json tensor_to_json(const at::Tensor& tensor, std::string_view what) {
  const DefaultFloatingPoint mode;
  const auto dtype = tensor.scalar_type();
  if (!find_dtype(dtype)) {
    throw EncodingError(std::string(what) + ": JSON cannot carry " + dtype_name(dtype));
  }
  if (tensor.numel() == 0) {
    // No element, and yet as many empty lists as its first sizes say.
    constexpr std::int64_t most = 1'000'000;
    std::int64_t lists = 1;
    for (const std::int64_t size : tensor.sizes()) {
      if (size == 0) break;
      if (size > most / lists) {
        throw EncodingError(std::string(what) + " is an empty " + describe(tensor) +
                            ", which JSON would need more than a million empty lists for");
      }
      lists *= size;
    }
  }
  const at::Tensor dense = writable(tensor);
  json result;
  AT_DISPATCH_V2(dtype, "tensor_to_json", AT_WRAP([&] {
                   const auto* next = dense.const_data_ptr<scalar_t>();
                   result = to_json<scalar_t>(next, dense.sizes(), what);
                 }),
                 AT_EXPAND(AT_ALL_TYPES), AT_EXPAND(AT_BAREBONES_UNSIGNED_TYPES), at::kBool,
                 at::kHalf, at::kBFloat16);
  return result;
}

at::Tensor tensor_from_string(std::string_view text) {
  at::Tensor tensor =
      at::empty({static_cast<std::int64_t>(text.size())}, at::TensorOptions(at::kByte));
  if (!text.empty()) std::memcpy(tensor.mutable_data_ptr(), text.data(), text.size());
  return tensor;
}

}  // namespace torchship

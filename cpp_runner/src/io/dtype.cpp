#include <torchship/dtype.h>

#include "base/join.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>

namespace torchship {
namespace {

constexpr std::array<DType, 13> dtypes{{
    {at::kBool, "bool", "BOOL", "b1"},
    {at::kByte, "uint8", "U8", "u1"},
    {at::kUInt16, "uint16", "U16", "u2"},
    {at::kUInt32, "uint32", "U32", "u4"},
    {at::kUInt64, "uint64", "U64", "u8"},
    {at::kChar, "int8", "I8", "i1"},
    {at::kShort, "int16", "I16", "i2"},
    {at::kInt, "int32", "I32", "i4"},
    {at::kLong, "int64", "I64", "i8"},
    {at::kHalf, "float16", "F16", "f2"},
    {at::kBFloat16, "bfloat16", "BF16", ""},
    {at::kFloat, "float32", "F32", "f4"},
    {at::kDouble, "float64", "F64", "f8"},
}};

std::optional<at::ScalarType> find(std::string_view DType::* column, std::string_view name) {
  const auto* row = std::ranges::find(dtypes, name, column);
  if (row == dtypes.end() || name.empty()) return std::nullopt;
  return row->type;
}

}  // namespace

std::optional<at::ScalarType> dtype_from_name(std::string_view name) {
  return find(&DType::name, name);
}

std::optional<at::ScalarType> dtype_from_safetensors(std::string_view name) {
  return find(&DType::safetensors, name);
}

std::optional<at::ScalarType> dtype_from_npy(std::string_view code) {
  return find(&DType::npy, code);
}

std::optional<DType> find_dtype(at::ScalarType type) {
  const auto* row = std::ranges::find(dtypes, type, &DType::type);
  if (row == dtypes.end()) return std::nullopt;
  return *row;
}

std::string dtype_name(at::ScalarType type) {
  const auto row = find_dtype(type);
  return row ? std::string(row->name) : std::string(c10::toString(type));
}

std::string describe(const at::Tensor& tensor) {
  const auto text = [](std::int64_t size) { return std::to_string(size); };
  return dtype_name(tensor.scalar_type()) + "[" + join(tensor.sizes(), ",", text) + "]";
}

}  // namespace torchship

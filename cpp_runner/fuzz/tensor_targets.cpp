// Targets for tensor files and JSON. What a reader accepts must be the same after it is written and
// read again.

#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/tensor_io.h>

#include "base/bytes.h"
#include "base/parse_json.h"
#include "targets.h"

#include <nlohmann/json.hpp>

#include <cstring>
#include <stdexcept>

namespace torchship::fuzz {
namespace {

constexpr std::array json_dtypes{at::kBool,     at::kByte,  at::kUInt16, at::kUInt32, at::kUInt64,
                                 at::kChar,     at::kShort, at::kInt,    at::kLong,   at::kHalf,
                                 at::kBFloat16, at::kFloat, at::kDouble};

bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.nbytes() == b.nbytes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

bool same(const TensorMap& a, const TensorMap& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && same(x.second, y.second);
  });
}

/// Checks what readers guarantee for each tensor, and reads all its numbers.
void inspect(const at::Tensor& tensor) {
  require(tensor.is_contiguous(), "a tensor is contiguous");
  require(find_dtype(tensor.scalar_type()).has_value(), "a tensor has a dtype of the manifest");
  static_cast<void>(describe(tensor));
  try {
    static_cast<void>(tensor_to_json(tensor, "x"));
  } catch (const EncodingError&) {  // NaN, infinity
  }
}

}  // namespace

void npy(std::string_view bytes) {
  at::Tensor tensor;
  try {
    tensor = read_npy(bytes);
  } catch (const InputError&) {
    return;
  }
  inspect(tensor);
  require(same(read_npy(write_npy(tensor)), tensor), "npy: it changed in a round trip");
}

void npz(std::string_view bytes) {
  TensorMap tensors;
  try {
    tensors = read_npz(bytes);
  } catch (const InputError&) {
    return;
  }
  for (const auto& [name, tensor] : tensors) inspect(tensor);
  if (tensors.empty()) return;  // write_npz() needs a tensor
  require(same(read_npz(write_npz(tensors)), tensors), "npz: it changed in a round trip");
}

void safetensors(std::string_view bytes) {
  TensorMap tensors;
  try {
    tensors = read_safetensors(bytes);
  } catch (const InputError&) {
    return;
  }
  for (const auto& [name, tensor] : tensors) inspect(tensor);
  require(same(read_safetensors(write_safetensors(tensors)), tensors),
          "safetensors: it changed in a round trip");
}

void json(std::string_view bytes) {
  nlohmann::json value;
  try {
    value = parse_json(bytes);
  } catch (const std::invalid_argument&) {
    return;
  }
  require(is_utf8(bytes), "JSON is UTF-8");
  require(nlohmann::json(parse_json(value.dump())) == value, "JSON: it changed in a round trip");
  const auto round = [&value](const auto&... dtype) {
    at::Tensor tensor;
    try {
      tensor = tensor_from_json(value, dtype..., "x");
    } catch (const InputError&) {
      return;
    }
    nlohmann::json again;
    try {
      again = tensor_to_json(tensor, "x");
    } catch (const EncodingError&) {
      const std::string text = value.dump();
      require(text.find("NaN\"") != text.npos || text.find("Infinity\"") != text.npos,
              "a tensor from JSON: only what JSON has no number for cannot be written");
      return;
    }
    require(same(tensor_from_json(again, tensor.scalar_type(), "x"), tensor),
            "a tensor from JSON: it changed in a round trip");
  };
  round();
  for (const at::ScalarType dtype : json_dtypes) round(dtype);
}

}  // namespace torchship::fuzz

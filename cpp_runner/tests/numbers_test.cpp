// Tensors whose memory does not hold their values, and the calling thread's floating-point mode.

#include <torchship/error.h>
#include <torchship/session.h>
#include <torchship/tensor_io.h>
#include <torchship/verify.h>

#include "support.h"

#include <ATen/ops/_efficientzerotensor.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/imag.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <cfenv>
#include <limits>

namespace torchship::numbers_test {
namespace {

using namespace torchship::testing;

/// The negated values as a lazy negation: the tensor's memory holds the values without the sign.
at::Tensor negated(const at::Tensor& values) {
  at::Tensor later = at::imag(at::complex(values, values).conj());
  EXPECT_TRUE(later.is_neg());
  return later;
}

TEST(numbers, writers_resolve_lazy_values) {
  for (const at::Tensor& values : {floats({5}, {1}), floats({5, -2, 3}, {3, 1})}) {
    const at::Tensor later = negated(values);
    EXPECT_TRUE(same(read_npy(write_npy(later)), -values));
    EXPECT_TRUE(same(read_npz(write_npz({{"x", later}})).at("x"), -values));
    EXPECT_TRUE(same(read_safetensors(write_safetensors({{"x", later}})).at("x"), -values));
    EXPECT_TRUE(same(tensor_from_json(tensor_to_json(later, "x"), at::kFloat, "x"), -values));
    EXPECT_TRUE(compare(later, -values, {}).bit_identical);
    EXPECT_FALSE(compare(later, values, {}).agreed);
  }
  const at::Tensor nothing = at::_efficientzerotensor({2}, at::TensorOptions(at::kFloat));
  EXPECT_TRUE(same(read_npy(write_npy(nothing)), floats({0, 0}, {2})));
}

TEST(numbers, writers_refuse_sparse_tensors) {
  const at::Tensor sparse = floats({0, 1}, {1, 2}).to_sparse();
  EXPECT_TRUE(contains(message_of<EncodingError>([&] { write_npy(sparse); }), "not dense"));
  EXPECT_TRUE(contains(message_of<EncodingError>([&] { write_safetensors({{"x", sparse}}); }),
                       "not dense"));
}

/// Restores this thread's exception flags and rounding mode at the end of a test.
struct KeptMode {
  KeptMode() { std::fegetenv(&mode); }
  KeptMode(const KeptMode&) = delete;
  KeptMode& operator=(const KeptMode&) = delete;
  ~KeptMode() { std::fesetenv(&mode); }
  std::fenv_t mode{};
};

TEST(numbers, the_callers_rounding_and_flags_are_restored) {
  const Archive archive(artefact("moba.pt"));
  Session session(archive);
  const TensorMap inputs{{"obs", at::zeros({1, 510}, at::TensorOptions(at::kByte))}};
  const TensorMap expected = session.run(inputs);
  const KeptMode kept;
  for (const int rounding : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::fesetround(rounding);
    std::feclearexcept(FE_ALL_EXCEPT);
    std::feraiseexcept(FE_OVERFLOW);
    for (const auto& [name, tensor] : session.run(inputs)) {
      EXPECT_TRUE(same(tensor, expected.at(name))) << name;
    }
    static_cast<void>(session.step(inputs));
    EXPECT_TRUE(verify(archive, 1).agreed);
    EXPECT_EQ(std::fegetround(), rounding);
    EXPECT_EQ(std::fetestexcept(FE_ALL_EXCEPT), FE_OVERFLOW);
  }
}

TEST(numbers, json_numbers_are_rounded_to_nearest) {
  const KeptMode kept;
  const nlohmann::json value = {0.1};
  const at::Tensor expected = tensor_from_json(value, at::kFloat, "x");
  std::fesetround(FE_UPWARD);
  const at::Tensor upward = tensor_from_json(value, at::kFloat, "x");
  std::fesetround(FE_DOWNWARD);
  const at::Tensor downward = tensor_from_json(value, at::kFloat, "x");
  std::fesetenv(&kept.mode);
  EXPECT_TRUE(same(upward, expected));
  EXPECT_TRUE(same(downward, expected));
}

}  // namespace
}  // namespace torchship::numbers_test

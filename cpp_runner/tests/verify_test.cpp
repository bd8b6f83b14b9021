#include <torchship/error.h>
#include <torchship/runtime.h>
#include <torchship/verify.h>

#include "support.h"
#include "verify/error_bound.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>

namespace torchship::verify_test {
namespace {

using namespace torchship::testing;

constexpr float inf = std::numeric_limits<float>::infinity();

Difference compare(std::vector<float> actual, std::vector<float> golden, Tolerance tolerance = {}) {
  const auto count = static_cast<std::int64_t>(actual.size());
  return torchship::compare(floats(std::move(actual), {count}), floats(std::move(golden), {count}),
                            tolerance);
}

/// What the second rule says of one output, with its float64 output; LibTorch's own error is that
/// of the golden output.
std::string beyond(const std::vector<float>& actual, const std::vector<float>& golden,
                   const std::vector<double>& exact) {
  const auto count = static_cast<std::int64_t>(actual.size());
  double own = 0;
  for (std::size_t i = 0; i < golden.size(); ++i) {
    const double error = std::abs(golden[i] - exact[i]);
    if (std::isfinite(error)) own = std::max(own, error);
  }
  return beyond_bound(floats(actual, {count}), floats(golden, {count}), at::tensor(exact), own);
}

TEST(verify, errors_are_at_most_twice_libtorchs_and_two_ulp) {
  constexpr double ulp = 0x1p-23;  // of 1
  // LibTorch's own error is 3 ULP, so 8 are allowed.
  const auto at_distance = [&](double ulps) {
    return beyond({1 + static_cast<float>(ulps * ulp)}, {1 + static_cast<float>(3 * ulp)}, {1});
  };
  EXPECT_EQ(at_distance(8), "");
  EXPECT_TRUE(contains(at_distance(9),
                       "1 of 1 values: error to float64 1.1e-06, LibTorch's own "
                       "3.6e-07, allowed 7.2e-07 + 2 ULP (2.4e-07)"));
  // The largest own error counts for all elements, their own ULP for each.
  EXPECT_EQ(beyond({1, 8 + 2 * 8 * 0x1p-23F}, {1, 8}, {1, 8}), "");
  EXPECT_TRUE(contains(beyond({1 + 3 * 0x1p-23F, 8}, {1, 8}, {1, 8}), "at flat index 0"));
  EXPECT_EQ(beyond({1 + 3 * 0x1p-23F, 8}, {1, 8}, {1, 8 + 0x1p-20}), "");
}

TEST(verify, infinities_do_not_count_in_the_second_rule) {
  EXPECT_EQ(beyond({inf, 1}, {inf, 1}, {1e39, 1}), "");
  EXPECT_EQ(beyond({3e38F}, {3e38F}, {std::numeric_limits<double>::infinity()}), "");
  EXPECT_NE(beyond({inf, 2}, {inf, 1}, {1e39, 1}), "");
}

TEST(verify, integers_must_be_equal_in_the_second_rule) {
  const auto numbers = [](std::int64_t value) { return at::tensor({value}); };
  EXPECT_EQ(beyond_bound(numbers(3), numbers(3), {}, 0), "");
  EXPECT_EQ(beyond_bound(numbers(4), numbers(3), {}, 0), "integers differ: expected equal ones");
  EXPECT_EQ(beyond_bound(floats({2}, {1}), floats({1}, {1}), {}, 0), "");  // only their tolerance
}

TEST(verify, known_ulp_distances) {
  const float next = std::nextafterf(1.0F, 2.0F);
  EXPECT_EQ(compare({1.0F}, {1.0F}).max_ulp, 0U);
  EXPECT_EQ(compare({next}, {1.0F}).max_ulp, 1U);
  EXPECT_EQ(compare({std::nextafterf(1.0F, 0.0F)}, {next}).max_ulp, 2U);
  EXPECT_EQ(compare({-next}, {-1.0F}).max_ulp, 1U);
  EXPECT_EQ(compare({1e-45F}, {-1e-45F}).max_ulp,
            2U);  // the smallest of each sign; zero lies between
  EXPECT_EQ(compare({2.0F}, {1.0F}).max_ulp, 1U << 23U);
  EXPECT_EQ(compare({inf}, {std::numeric_limits<float>::max()}).max_ulp, 1U);
  const auto of = [](double a, double b, at::ScalarType dtype) {
    return torchship::compare(at::tensor(a, at::kDouble).to(dtype),
                              at::tensor(b, at::kDouble).to(dtype), {})
        .max_ulp;
  };
  EXPECT_EQ(of(1.0009765625, 1.0, at::kHalf), 1U);
  EXPECT_EQ(of(1.0078125, 1.0, at::kBFloat16), 1U);
  EXPECT_EQ(of(1.0 + 0x1p-52, 1.0, at::kDouble), 1U);
  EXPECT_EQ(of(2.0, -2.0, at::kDouble), std::uint64_t{2} << 62U);
  EXPECT_EQ(of(7, -3, at::kLong), 10U);
}

TEST(verify, zeros_of_both_signs_agree_without_being_identical) {
  const Difference difference = compare({-0.0F}, {0.0F});
  EXPECT_TRUE(difference.agreed);
  EXPECT_EQ(difference.max_ulp, 0U);
  EXPECT_FALSE(difference.bit_identical);
  EXPECT_TRUE(compare({1.5F}, {1.5F}).bit_identical);
}

TEST(verify, atol_and_rtol_are_added) {
  // The difference is 0.5, which is exactly 0.25 + 0.25 * 1. A slightly smaller tolerance is too
  // small.
  EXPECT_TRUE(compare({1.5F}, {1.0F}, {.atol = 0.25, .rtol = 0.25}).agreed);
  EXPECT_FALSE(compare({1.5F}, {1.0F}, {.atol = 0.25, .rtol = 0.2499}).agreed);
  EXPECT_FALSE(compare({1.5F}, {1.0F}, {.atol = 0.2499, .rtol = 0.25}).agreed);
  // rtol is multiplied by the golden value, not by the actual one.
  EXPECT_FALSE(compare({2.0F}, {1.0F}, {.atol = 0, .rtol = 0.5}).agreed);
  EXPECT_TRUE(compare({1.0F}, {2.0F}, {.atol = 0, .rtol = 0.5}).agreed);
}

TEST(verify, largest_differences) {
  const Difference difference = compare({1.0F, 4.0F, 0.0F}, {1.0F, 2.0F, 0.5F});
  EXPECT_FALSE(difference.agreed);
  EXPECT_EQ(difference.max_abs, 2.0);
  EXPECT_EQ(difference.max_rel, 1.0);
  EXPECT_EQ(difference.reason, "at [1]: got 4, golden 2");
  const double smallest = std::numeric_limits<float>::min();
  EXPECT_EQ(compare({1e-38F}, {0.0F}).max_rel, static_cast<double>(1e-38F) / smallest);
}

TEST(verify, infinities_agree_only_with_themselves) {
  const Tolerance wide{.atol = 1, .rtol = 1};
  EXPECT_TRUE(compare({inf, -inf}, {inf, -inf}).agreed);
  EXPECT_FALSE(compare({1.0F}, {inf}, wide).agreed);
  EXPECT_FALSE(compare({inf}, {1.0F}, wide).agreed);
  EXPECT_FALSE(compare({-inf}, {inf}, wide).agreed);
}

TEST(verify, nan_dtype_and_shape_are_mismatches) {
  const Tolerance wide{.atol = 1e9, .rtol = 1};
  for (const Difference& difference :
       {compare({NAN}, {1.0F}, wide), compare({1.0F}, {NAN}, wide), compare({NAN}, {NAN}, wide),
        torchship::compare(floats({1}, {1}), floats({1}, {1}).to(at::kDouble), wide),
        torchship::compare(floats({1, 2}, {1, 2}), floats({1, 2}, {2, 1}), wide)}) {
    EXPECT_FALSE(difference.agreed);
    EXPECT_FALSE(difference.max_abs || difference.max_rel || difference.max_ulp);
    EXPECT_FALSE(difference.reason.empty());
  }
  EXPECT_TRUE(torchship::compare(at::empty({0, 3}), at::empty({0, 3}), {}).agreed);
}

TEST(verify, large_integers_are_compared_exactly) {
  const auto wide = [](std::int64_t value) { return at::tensor(value, at::kLong); };
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  EXPECT_FALSE(torchship::compare(wide(large), wide(large - 1), {}).agreed);
  EXPECT_EQ(torchship::compare(wide(INT64_MAX), wide(INT64_MIN), {}).max_ulp, UINT64_MAX);
  EXPECT_TRUE(torchship::compare(wide(large), wide(large), {}).agreed);
}

VerifyReport report(const std::string& name, int repeat = 3) {
  configure_runtime();
  return verify(Archive(artefact(name + ".pt")), repeat);
}

TEST(verify, the_models_are_bit_identical) {
  for (const char* name : {"fizzbuzz", "lstm", "moba", "bobnet", "odd", "counter", "tiny"}) {
    const VerifyReport result = report(name);
    EXPECT_TRUE(result.agreed) << name;
    EXPECT_FALSE(result.results.empty());
    for (const OutputResult& output : result.results) {
      EXPECT_TRUE(output.difference.bit_identical) << name << " " << output.output;
    }
    EXPECT_EQ(result.actual.size(), result.results.size());
  }
}

TEST(verify, every_difference_is_a_mismatch) {
  for (const auto& [name, reason] : std::vector<std::pair<const char*, const char*>>{
           {"edited", "at [0,1]: got -1.5, golden -1"},
           {"wide", "expected float64[2,3], got float32[2,3]"},
           {"short", "expected float32[1,3], got float32[2,3]"},
           {"nan", "holds NaN at [0,0]"},
           {"tuple_liar", "where a tuple was promised"},
           {"raises", "a value above 10 is forbidden"}}) {
    const VerifyReport result = report(name);
    EXPECT_FALSE(result.agreed) << name;
    EXPECT_TRUE(contains(result.results.at(0).difference.reason, reason)) << name;
  }
}

TEST(verify, the_largest_difference_of_all_repetitions_is_reported) {
  EXPECT_TRUE(report("drift", 1).agreed);
  const VerifyReport result = report("drift", 3);
  EXPECT_FALSE(result.agreed);
  EXPECT_EQ(result.results.at(0).difference.max_abs, 2.0);
  EXPECT_FALSE(result.results.at(0).difference.bit_identical);
}

TEST(verify, steps_keep_state) {
  const VerifyReport result = report("counter", 1);
  ASSERT_EQ(result.results.size(), 6U);
  EXPECT_TRUE(same(result.actual.at("0/2/out/sum"), floats({16, 14}, {1, 2})));
}

TEST(verify, no_golden_cases_is_an_error) {
  EXPECT_TRUE(
      contains(message_of<ArchiveError>([] { report("plain"); }), "nothing vouches for it"));
  EXPECT_TRUE(contains(message_of<ArchiveError>([] { report("no_cases"); }), "no golden case"));
}

}  // namespace
}  // namespace torchship::verify_test

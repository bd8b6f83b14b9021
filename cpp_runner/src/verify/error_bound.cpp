#include "verify/error_bound.h"

#include "io/plain_tensor.h"
#include "verify/float64_outputs.h"

#include <ATen/ops/equal.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace torchship {
namespace {

constexpr double factor = 2;  // times LibTorch's own largest error
constexpr double ulps = 2;    // of each golden element, besides

/// A dtype's distance from 1 to the next larger number, and its smallest normal number.
struct Limits {
  double epsilon;
  double smallest;
};

template <typename T>
Limits limits() {
  return {.epsilon = static_cast<double>(std::numeric_limits<T>::epsilon()),
          .smallest = static_cast<double>(std::numeric_limits<T>::min())};
}

Limits limits_of(at::ScalarType type) {
  if (type == at::kHalf) return limits<at::Half>();
  if (type == at::kBFloat16) return limits<at::BFloat16>();
  return limits<float>();
}

/// How far the magnitude of `value` is from the next larger number of the dtype.
double ulp(double value, const Limits& limits) {
  int exponent = 0;
  std::frexp(std::max(std::abs(value), limits.smallest), &exponent);
  return std::ldexp(limits.epsilon, exponent - 1);
}

std::string number(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

}  // namespace

std::string beyond_bound(const at::Tensor& actual, const at::Tensor& golden,
                         const at::Tensor& exact, double own) {
  if (!golden.is_floating_point()) {
    return at::equal(actual, golden) ? "" : "integers differ: expected equal ones";
  }
  if (!exact.defined() || !is_lower_precision(golden.scalar_type())) return "";
  const Limits limits = limits_of(golden.scalar_type());
  const at::Tensor wide_actual = plain(actual.to(at::kDouble));
  const at::Tensor wide_golden = plain(golden.to(at::kDouble));
  const at::Tensor plain_exact = plain(exact);
  const double* a = wide_actual.const_data_ptr<double>();
  const double* b = wide_golden.const_data_ptr<double>();
  const double* e = plain_exact.const_data_ptr<double>();
  const auto counts = [&](std::int64_t i) { return std::isfinite(b[i]) && std::isfinite(e[i]); };

  std::int64_t wrong = 0;
  std::int64_t worst = 0;
  double largest = 0;
  for (std::int64_t i = 0; i < golden.numel(); ++i) {
    if (!counts(i)) continue;
    const double excess = std::abs(a[i] - e[i]) - ulps * ulp(b[i], limits) - factor * own;
    if (excess <= 0) continue;
    ++wrong;
    if (excess > largest) {
      largest = excess;
      worst = i;
    }
  }
  if (wrong == 0) return "";
  return std::to_string(wrong) + " of " + std::to_string(golden.numel()) +
         " values: error to float64 " + number(std::abs(a[worst] - e[worst]), 2) +
         ", LibTorch's own " + number(own, 2) + ", allowed " + number(factor * own, 2) +
         " + 2 ULP (" + number(ulps * ulp(b[worst], limits), 2) + "); the worst at flat index " +
         std::to_string(worst) + ": golden " + number(b[worst], 9) + ", got " +
         number(a[worst], 9) + ", in float64 " + number(e[worst], 17);
}

}  // namespace torchship

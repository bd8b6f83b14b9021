#include "verify/compare_elements.h"

#include <ATen/Dispatch_v2.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace torchship {
namespace {

template <typename T>
using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;

/// Floats in their order as unsigned numbers, neighbours one apart and both zeros the same.
template <typename T>
std::uint64_t position(T value) {
  using U = Bits<T>;
  constexpr auto sign = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  const auto bits = std::bit_cast<U>(value);
  const auto magnitude = static_cast<U>(bits & static_cast<U>(~sign));
  return (bits & sign) != 0 ? std::uint64_t{sign} - magnitude : std::uint64_t{sign} + magnitude;
}

/// The exact distance of two integers.
template <typename T>
std::uint64_t distance(T a, T b) {
  const auto low = static_cast<std::uint64_t>(std::min(a, b));
  return static_cast<std::uint64_t>(std::max(a, b)) - low;
}

struct Pair {
  double abs = 0;
  double rel = 0;
  std::uint64_t ulp = 0;
  bool agreed = true;
};

template <typename T>
Pair compare_pair(T a, T b, const Tolerance& tolerance) {
  Pair pair;
  double scale = 1;
  double wide_b = 0;
  if constexpr (std::is_integral_v<T>) {
    pair.ulp = distance(a, b);
    pair.abs = static_cast<double>(pair.ulp);
    wide_b = static_cast<double>(b);
  } else {
    const std::uint64_t at_a = position(a);
    const std::uint64_t at_b = position(b);
    pair.ulp = at_a > at_b ? at_a - at_b : at_b - at_a;
    const auto wide_a = static_cast<double>(a);
    wide_b = static_cast<double>(b);
    scale = static_cast<double>(std::numeric_limits<T>::min());
    // Infinities agree only with themselves: `inf <= atol + rtol * inf` would let anything pass.
    if (wide_a == wide_b) return pair;
    if (std::isinf(wide_a) || std::isinf(wide_b)) {
      pair.abs = pair.rel = std::numeric_limits<double>::infinity();
      pair.agreed = false;
      return pair;
    }
    pair.abs = std::abs(wide_a - wide_b);
  }
  pair.rel = pair.abs / std::max(std::abs(wide_b), scale);
  pair.agreed = pair.abs <= tolerance.atol + tolerance.rtol * std::abs(wide_b);
  return pair;
}

template <typename T>
bool is_nan(T value) {
  if constexpr (std::is_integral_v<T>) {
    return false;
  } else {
    return std::isnan(static_cast<double>(value));
  }
}

/// `[1,3]` for the flat index of an element.
std::string place(std::int64_t index, at::IntArrayRef shape) {
  std::string text;
  for (std::size_t i = shape.size(); i-- > 0;) {
    text = std::to_string(index % shape[i]) + (text.empty() ? "" : ",") + text;
    index /= shape[i];
  }
  return "[" + text + "]";
}

template <typename T>
std::string shown(T value) {
  if constexpr (std::is_integral_v<T>) {
    return std::to_string(value);
  } else {
    char text[32];
    std::snprintf(text, sizeof text, "%.*g", sizeof(T) == 8 ? 17 : 9, static_cast<double>(value));
    return text;
  }
}

template <typename T>
Difference compare_values(const at::Tensor& actual, const at::Tensor& golden,
                          const Tolerance& tolerance) {
  Difference result;
  const T* a = actual.const_data_ptr<T>();
  const T* b = golden.const_data_ptr<T>();
  const std::int64_t count = actual.numel();
  for (const auto& [values, what] : {std::pair{a, "it"}, std::pair{b, "the golden value"}}) {
    for (std::int64_t i = 0; i < count; ++i) {
      if (!is_nan(values[i])) continue;
      result.reason = std::string(what) + " holds NaN at " + place(i, actual.sizes());
      return result;
    }
  }
  Pair worst;
  std::int64_t at = -1;
  double worst_abs = -1;
  for (std::int64_t i = 0; i < count; ++i) {
    const Pair pair = compare_pair(a[i], b[i], tolerance);
    worst.abs = std::max(worst.abs, pair.abs);
    worst.rel = std::max(worst.rel, pair.rel);
    worst.ulp = std::max(worst.ulp, pair.ulp);
    if (!pair.agreed && pair.abs > worst_abs) {
      worst_abs = pair.abs;
      at = i;
    }
  }
  result.agreed = at < 0;
  result.max_abs = worst.abs;
  result.max_rel = worst.rel;
  result.max_ulp = worst.ulp;
  if (at >= 0) {
    result.reason =
        "at " + place(at, actual.sizes()) + ": got " + shown(a[at]) + ", golden " + shown(b[at]);
  }
  return result;
}

}  // namespace

Difference compare_elements(const at::Tensor& actual, const at::Tensor& golden,
                            const Tolerance& tolerance) {
  return AT_DISPATCH_V2(actual.scalar_type(), "compare", AT_WRAP([&] {
                          return compare_values<scalar_t>(actual, golden, tolerance);
                        }),
                        AT_EXPAND(AT_ALL_TYPES), AT_EXPAND(AT_BAREBONES_UNSIGNED_TYPES), at::kBool,
                        at::kHalf, at::kBFloat16);
}

}  // namespace torchship

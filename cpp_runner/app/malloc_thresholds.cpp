#include "malloc_thresholds.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <algorithm>
#include <array>
#include <malloc.h>
#include <string_view>
#endif

namespace torchship::app {

#ifdef __GLIBC__
namespace {

constexpr int mmap_threshold = 32 << 20;  // the most that every glibc accepts
constexpr int trim_threshold = 2 * mmap_threshold;

/// What turns off glibc's own rule for these values, as a variable and as a tunable.
constexpr std::array variables{"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_",
                               "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_"};
constexpr std::array<std::string_view, 4> tunables{
    "glibc.malloc.mmap_threshold=", "glibc.malloc.trim_threshold=", "glibc.malloc.top_pad=",
    "glibc.malloc.mmap_max="};

bool set_by_user() {
  const char* const given = std::getenv("GLIBC_TUNABLES");
  const std::string_view text = given == nullptr ? "" : given;
  return std::ranges::any_of(variables,
                             [](const char* name) { return std::getenv(name) != nullptr; }) ||
         std::ranges::any_of(tunables, [text](std::string_view name) {
           return text.find(name) != std::string_view::npos;
         });
}

}  // namespace

void raise_malloc_thresholds() {
  if (set_by_user()) return;
  mallopt(M_MMAP_THRESHOLD, mmap_threshold);
  mallopt(M_TRIM_THRESHOLD, trim_threshold);
}
#else
void raise_malloc_thresholds() {}
#endif

}  // namespace torchship::app

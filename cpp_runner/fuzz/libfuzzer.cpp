// libFuzzer's way in to one target: TORCHSHIP_FUZZ_TARGET names its function.

#include "targets.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Not null even where there are no bytes: a string_view of an empty file is not, either.
  const char* const bytes = size > 0 ? reinterpret_cast<const char*>(data) : "";
  torchship::fuzz::TORCHSHIP_FUZZ_TARGET({bytes, size});
  return 0;
}

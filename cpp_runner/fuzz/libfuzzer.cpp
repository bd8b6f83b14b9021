// libFuzzer's entry point for one target; TORCHSHIP_FUZZ_TARGET is the name of its function.

#include "targets.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Never null, because the string_view of an empty file is not null either.
  const char* const bytes = size > 0 ? reinterpret_cast<const char*>(data) : "";
  torchship::fuzz::TORCHSHIP_FUZZ_TARGET({bytes, size});
  return 0;
}

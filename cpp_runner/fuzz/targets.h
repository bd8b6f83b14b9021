#pragma once

/// The readers of untrusted bytes, as a fuzzer sees them: each entry takes any bytes. It returns
/// when they are refused in the documented way or read without a contradiction. A bug shows as a
/// sanitizer's report, as an exception of another kind, or as a Contradiction. Each function may be
/// called again and again by one thread.
///
/// `make fuzz` feeds them with libFuzzer (libfuzzer.cpp); tests/fuzz_test.cpp feeds them corpus/.

#include <array>
#include <stdexcept>
#include <string_view>

namespace torchship::fuzz {

/// What was read is not what a reader promises.
class Contradiction : public std::logic_error {
  using std::logic_error::logic_error;
};

/// Raises Contradiction unless `holds`.
inline void require(bool holds, const char* promise) {
  if (!holds) throw Contradiction(promise);
}

void npy(std::string_view bytes);
void npz(std::string_view bytes);
void safetensors(std::string_view bytes);
/// A JSON text as tensors of every dtype.
void json(std::string_view bytes);
void manifest(std::string_view bytes);
/// Four bytes (little-endian) that give a manifest's length, that manifest, golden.safetensors.
void golden(std::string_view bytes);
/// Any zip.
void zip(std::string_view bytes);
/// A whole archive, read and checked; LibTorch is not asked to load it.
void archive(std::string_view bytes);

struct Target {
  std::string_view name;  // also its folder below corpus/
  void (*run)(std::string_view bytes);
};

inline constexpr std::array<Target, 8> targets{{
    {"npy", npy},
    {"npz", npz},
    {"safetensors", safetensors},
    {"json", json},
    {"manifest", manifest},
    {"golden", golden},
    {"zip", zip},
    {"archive", archive},
}};

}  // namespace torchship::fuzz

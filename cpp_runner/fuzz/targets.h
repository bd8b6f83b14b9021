#pragma once

/// The fuzz targets, one for each reader of untrusted bytes. A target takes any bytes. It returns
/// if the reader refuses them with a documented error, or reads them correctly. A bug shows as a
/// report of a sanitizer, as another exception, or as a Contradiction. One thread at a time.
///
/// `make fuzz` runs the targets with libFuzzer (libfuzzer.cpp), and tests/fuzz_test.cpp runs them
/// on the files in corpus/.

#include <array>
#include <stdexcept>
#include <string_view>

namespace torchship::fuzz {

/// A reader returned something that it guarantees not to return.
class Contradiction : public std::logic_error {
  using std::logic_error::logic_error;
};

/// Raises Contradiction with `promise` unless `holds`.
inline void require(bool holds, const char* promise) {
  if (!holds) throw Contradiction(promise);
}

void npy(std::string_view bytes);
void npz(std::string_view bytes);
void safetensors(std::string_view bytes);
/// JSON text, read as tensors of every dtype.
void json(std::string_view bytes);
void manifest(std::string_view bytes);
/// Four bytes with the length of a manifest (little-endian), the manifest, and golden.safetensors.
void golden(std::string_view bytes);
/// Any zip.
void zip(std::string_view bytes);
/// An archive, read and checked, but not loaded by LibTorch.
void archive(std::string_view bytes);

struct Target {
  std::string_view name;  // also the name of its folder in corpus/
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

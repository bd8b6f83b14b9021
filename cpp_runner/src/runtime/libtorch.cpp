#include "runtime/libtorch.h"

#include <torchship/error.h>

#include "base/load_library.h"

#include <torch/headeronly/version.h>

#include <cstdint>
#include <dlfcn.h>
#include <filesystem>
#include <string>

// Declared here, and weak, so that a LibTorch that is too old to have it can be named too.
extern "C" __attribute__((weak)) std::uint64_t aoti_torch_abi_version();

namespace torchship {
namespace {

struct Minor {
  unsigned major;
  unsigned minor;

  bool operator==(const Minor&) const = default;
  std::string text() const { return std::to_string(major) + "." + std::to_string(minor); }
};

constexpr Minor of_abi(std::uint64_t version) {
  return {static_cast<unsigned>(version >> 56), static_cast<unsigned>(version >> 48 & 0xff)};
}

constexpr Minor built_with = of_abi(TORCH_ABI_VERSION);

}  // namespace

void check_libtorch() {
  const bool tells = &aoti_torch_abi_version != nullptr;
  if (tells && of_abi(aoti_torch_abi_version()) == built_with) return;
  const std::string loaded = tells ? of_abi(aoti_torch_abi_version()).text() : "an older version";
  throw UsageError("LibTorch: expected " + built_with.text() +
                   ", which torchship was built with, got " + loaded +
                   ": install it with `pip install 'torch==" + built_with.text() +
                   ".*'`, or build torchship again with the torch that is installed");
}

std::string libtorch_minor() {
  return built_with.text();
}

void load_cuda_code() {
  Dl_info cpu{};
  if (dladdr(reinterpret_cast<const void*>(&aoti_torch_abi_version), &cpu) == 0) return;
  const auto file = std::filesystem::path(cpu.dli_fname).replace_filename("libtorch_cuda.so");
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return;  // a build for the CPU
  const LoadedLibrary loaded = load_library(file, RTLD_GLOBAL);
  if (loaded.handle == nullptr) {
    throw UsageError("device: cannot load LibTorch's code for CUDA: " + loaded.failure);
  }
}

}  // namespace torchship

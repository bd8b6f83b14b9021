#include "runtime/device.h"

#include <torchship/error.h>

#include "runtime/libtorch.h"

#include <ATen/Context.h>
#include <torch/cuda.h>

#include <charconv>
#include <optional>
#include <string_view>

namespace torchship {
namespace {

/// The number in `cuda:<number>`, 0 for `cuda`; nothing for any other text.
std::optional<int> cuda_index(std::string_view text) {
  constexpr std::string_view cuda = "cuda";
  if (text == cuda) return 0;
  if (!text.starts_with("cuda:")) return std::nullopt;
  text.remove_prefix(cuda.size() + 1);
  int index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size() || index < 0) return std::nullopt;
  return index;
}

}  // namespace

void check_device(const std::string& device) {
  if (device == "cpu") return;
  const auto index = cuda_index(device);
  if (!index) {
    throw UsageError("device: expected cpu, cuda or cuda:<number>, got '" + device + "'");
  }
  check_libtorch();
  load_cuda_code();
  const int count = torch::cuda::is_available() ? torch::cuda::device_count() : 0;
  if (*index >= count) {
    throw UsageError("device: LibTorch has no '" + device + "': it sees " +
                     (count == 0 ? "no CUDA device" : std::to_string(count) + " CUDA devices") +
                     " on this machine");
  }
}

}  // namespace torchship

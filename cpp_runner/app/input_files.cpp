#include "input_files.h"

#include <torchship/error.h>

#include "base/files.h"
#include "gray_png.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace torchship::app {
namespace {

/// The one tensor input that a file without names stands for.
const Node& single_input(const Method& method, const std::string& extension) {
  std::vector<const Node*> found;
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      if (argument.required && argument.value.is_leaf() && leaf->kind == Node::Kind::tensor &&
          !method.is_state_input(leaf->name)) {
        found.push_back(leaf);
      }
    }
  }
  if (found.size() == 1) return *found.front();
  throw UsageError(extension + " holds one tensor, and method '" + method.name + "' has " +
                   std::to_string(found.size()) + " tensor inputs: use .npz or .safetensors");
}

/// A fixed dimension, or nothing.
std::optional<std::int64_t> fixed(const Dimension& dimension) {
  const auto* size = std::get_if<std::int64_t>(&dimension);
  return size == nullptr ? std::nullopt : std::optional(*size);
}

/// How an input takes one image: the pixels of it, and the shape that they get.
struct Layout {
  PixelSize pixels;
  bool flat = false;     // [batch, height * width]
  bool channel = false;  // [batch, 1, height, width]

  std::vector<std::int64_t> shape(std::int64_t height, std::int64_t width) const {
    if (flat) return {1, height * width};
    if (channel) return {1, 1, height, width};
    return {1, height, width};
  }
};

std::optional<Layout> layout_of(const Node& input) {
  if (input.dtype != at::kByte || !input.shape) return std::nullopt;
  const std::vector<Dimension>& shape = *input.shape;
  if (shape.empty() || fixed(shape[0]).value_or(1) != 1) return std::nullopt;
  if (shape.size() == 2) {
    const std::int64_t count = fixed(shape[1]).value_or(0);
    const std::int64_t side = std::llround(std::sqrt(static_cast<double>(count)));
    if (count < 1 || side * side != count) return std::nullopt;
    return Layout{.pixels = {side, side}, .flat = true};
  }
  if (shape.size() == 3) return Layout{.pixels = {fixed(shape[1]), fixed(shape[2])}};
  if (shape.size() == 4 && fixed(shape[1]) == 1) {
    return Layout{.pixels = {fixed(shape[2]), fixed(shape[3])}, .channel = true};
  }
  return std::nullopt;
}

TensorMap read_image(const std::filesystem::path& path, const Node& input) {
  const auto layout = layout_of(input);
  if (!layout) {
    throw UsageError("'" + path.string() + "': input '" + input.name + "' takes " +
                     describe(input) +
                     ", no image: that is uint8[batch,side*side], uint8[batch,height,width] or "
                     "uint8[batch,1,height,width]");
  }
  const auto bytes = read_file(path);
  if (!bytes) throw InputError(cannot_read(path));
  try {
    const at::Tensor pixels = read_gray_png(*bytes, layout->pixels);
    return {{input.name, pixels.reshape(layout->shape(pixels.size(0), pixels.size(1)))}};
  } catch (const InputError& error) {
    throw InputError("'" + path.string() + "': for input '" + input.name + "', " + describe(input) +
                     ": " + error.what());
  }
}

}  // namespace

TensorMap read_inputs(const std::filesystem::path& path, const Method& method) {
  const std::string extension = path.extension().string();
  if (extension == ".png") return read_image(path, single_input(method, extension));
  constexpr std::array known{".npz", ".npy", ".safetensors"};
  if (std::ranges::find(known, extension) == known.end()) {
    throw UsageError("'" + path.string() +
                     "': expected a name that ends in .npz, .npy, .safetensors or .png");
  }
  return read_tensors(path, extension == ".npy" ? single_input(method, extension).name : "");
}

}  // namespace torchship::app

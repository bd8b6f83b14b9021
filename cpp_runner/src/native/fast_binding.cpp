#include "native/fast_binding.h"

#include "call/input_check.h"

#include <algorithm>

namespace torchship {
namespace {

constexpr std::int64_t unbound = -1;

/// The field of a size with this key.
std::optional<std::size_t> size_field(const NativeMethod& native, const std::string& key) {
  for (std::size_t i = 0; i < native.inputs.size(); ++i) {
    const NativeInput& field = native.inputs[i];
    if (field.kind == NativeInput::Kind::size && field.leaf == key) return i;
  }
  return std::nullopt;
}

}  // namespace

std::optional<FastBinding> FastBinding::make(const Method& method, const NativeMethod& native) {
  FastBinding binding;
  for (std::size_t i = 0; i < native.inputs.size(); ++i) {
    const NativeInput& field = native.inputs[i];
    if (field.kind == NativeInput::Kind::size) {
      binding.sizes_.push_back(i);
      continue;
    }
    const Node* leaf = find_input(method, field.leaf);
    const bool tensor = field.kind == NativeInput::Kind::tensor && leaf != nullptr;
    if (!tensor || !leaf->dtype || !leaf->shape) return std::nullopt;
    const auto state = std::ranges::find(method.state, field.leaf, &State::input);
    // Null stands for the start of a state; whether another tensor may be missing is for the
    // general path.
    const bool is_state = state != method.state.end();
    if (field.optional != is_state) return std::nullopt;
    Slot slot{.name = field.leaf, .field = i, .dtype = *leaf->dtype};
    if (is_state) slot.state = static_cast<std::size_t>(state - method.state.begin());
    for (std::size_t axis = 0; axis < leaf->shape->size(); ++axis) {
      const Dimension& dimension = (*leaf->shape)[axis];
      if (const auto* size = std::get_if<std::int64_t>(&dimension)) {
        slot.shape.push_back({.size = *size});
        continue;
      }
      const auto* symbol = std::get_if<std::string>(&dimension);
      const auto named =
          size_field(native, symbol != nullptr ? *symbol : leaf->name + "." + std::to_string(axis));
      if (!named) return std::nullopt;
      slot.shape.push_back({.field = named});
    }
    binding.slots_.push_back(std::move(slot));
  }
  return binding;
}

bool FastBinding::fits(const Slot& slot, const at::Tensor& tensor, std::span<NativeWord> in) {
  if (!tensor.defined() || slot.dtype != tensor.scalar_type() || tensor.layout() != at::kStrided ||
      !tensor.device().is_cpu() || !tensor.is_contiguous() || tensor.is_neg() || tensor.is_conj() ||
      tensor._is_zerotensor() || tensor.numel() == 0) {
    return false;
  }
  const at::IntArrayRef actual = tensor.sizes();
  if (actual.size() != slot.shape.size()) return false;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const Slot::Dimension& dimension = slot.shape[i];
    if (!dimension.field) {
      if (dimension.size != actual[i]) return false;
      continue;
    }
    std::int64_t& known = in[*dimension.field].integer;
    if (known == unbound) known = actual[i];
    if (known != actual[i]) return false;
  }
  return true;
}

bool FastBinding::bind(const TensorMap& given, std::span<const at::Tensor> carried,
                       std::span<NativeWord> in) const {
  for (const std::size_t field : sizes_) in[field].integer = unbound;
  std::size_t found = 0;
  for (const Slot& slot : slots_) {
    const at::Tensor* tensor = nullptr;
    if (const auto item = given.find(slot.name); item != given.end()) {
      tensor = &item->second;
      ++found;
    } else if (!slot.state) {
      return false;
    } else if (*slot.state < carried.size() && carried[*slot.state].defined()) {
      tensor = &carried[*slot.state];
    }
    if (tensor != nullptr && !fits(slot, *tensor, in)) return false;
    in[slot.field].pointer = tensor == nullptr ? nullptr : tensor->const_data_ptr();
  }
  return found == given.size() && std::ranges::none_of(sizes_, [&](std::size_t field) {
           return in[field].integer == unbound;
         });
}

}  // namespace torchship

#include "call/fast_path.h"

#include "io/plain_tensor.h"

#include <ATen/core/jit_type.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace torchship {

/// Gives each symbol a number.
class FastPath::Numbering {
 public:
  Slot slot(const Node& leaf, std::size_t position) {
    Slot made{.name = leaf.name, .dtype = leaf.dtype, .position = position};
    if (!leaf.shape) return made;
    made.shape.emplace();
    for (const Dimension& dimension : *leaf.shape) {
      Slot::Dimension entry;
      if (const auto* size = std::get_if<std::int64_t>(&dimension)) {
        entry = {.kind = Slot::Dimension::Kind::fixed, .size = *size};
      } else if (const auto* symbol = std::get_if<std::string>(&dimension)) {
        entry = {.kind = Slot::Dimension::Kind::symbol, .symbol = number(*symbol)};
      }
      made.shape->push_back(entry);
    }
    return made;
  }

  std::size_t count() const { return names_.size(); }

 private:
  std::size_t number(const std::string& symbol) {
    const auto known = std::ranges::find(names_, symbol);
    const auto index = static_cast<std::size_t>(known - names_.begin());
    if (known == names_.end()) names_.push_back(symbol);
    return index;
  }

  std::vector<std::string> names_;
};

std::optional<FastPath> FastPath::make(const Method& method, const c10::FunctionSchema& schema,
                                       const std::vector<bool>& written) {
  const auto is_tensor = [](const Node& node, const c10::TypePtr& type) {
    return node.kind == Node::Kind::tensor && type->kind() == c10::TypeKind::TensorType;
  };
  FastPath path;
  Numbering numbering;
  if (method.inputs.size() + 1 != schema.arguments().size()) return std::nullopt;
  for (const Argument& argument : method.inputs) {
    const auto position = schema.argumentIndexWithName(argument.name);
    if (!position || *position == 0 ||
        !is_tensor(argument.value,
                   schema.arguments()[static_cast<std::size_t>(*position)].type())) {
      return std::nullopt;
    }
    Slot slot = numbering.slot(argument.value, static_cast<std::size_t>(*position));
    slot.written = written[slot.position];
    const auto state = std::ranges::find(method.state, slot.name, &State::input);
    if (state != method.state.end()) {
      slot.state = static_cast<std::size_t>(state - method.state.begin());
      slot.zeros = state->start == State::Start::zeros;
    }
    path.inputs_.push_back(std::move(slot));
  }
  if (schema.returns().size() != 1) return std::nullopt;
  const c10::TypePtr& returned = schema.returns()[0].type();
  if (is_tensor(method.outputs, returned)) {
    path.outputs_.push_back(numbering.slot(method.outputs, 0));
  } else {
    const auto tuple = returned->cast<c10::TupleType>();
    const auto& items = method.outputs.items;
    if (method.outputs.kind != Node::Kind::tuple || !tuple ||
        tuple->elements().size() != items.size()) {
      return std::nullopt;
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (!is_tensor(items[i], tuple->elements()[i])) return std::nullopt;
      path.outputs_.push_back(numbering.slot(items[i], i));
    }
    path.tuple_ = true;
  }
  std::ranges::sort(path.inputs_, {}, &Slot::name);
  std::ranges::sort(path.outputs_, {}, &Slot::name);
  path.symbols_ = numbering.count();
  return path;
}

bool FastPath::fits(const Slot& slot, const at::Tensor& tensor, Sizes& sizes) {
  if (!tensor.defined() || (slot.dtype && *slot.dtype != tensor.scalar_type()) ||
      tensor.layout() != at::kStrided || !tensor.device().is_cpu() || !tensor.is_contiguous() ||
      tensor.is_neg() || tensor.is_conj() || tensor._is_zerotensor()) {
    return false;
  }
  if (!slot.shape) return true;
  const at::IntArrayRef actual = tensor.sizes();
  if (actual.size() != slot.shape->size()) return false;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const Slot::Dimension& dimension = (*slot.shape)[i];
    if (dimension.kind == Slot::Dimension::Kind::fixed) {
      if (dimension.size != actual[i]) return false;
    } else if (dimension.kind == Slot::Dimension::Kind::symbol) {
      std::int64_t& known = sizes[dimension.symbol];
      if (known == unbound) known = actual[i];
      if (known != actual[i]) return false;
    }
  }
  return true;
}

std::optional<at::Tensor> FastPath::zeros_of(const Slot& slot, const Sizes& sizes) {
  c10::SmallVector<std::int64_t, 6> shape;
  for (const Slot::Dimension& dimension : *slot.shape) {
    const bool fixed = dimension.kind == Slot::Dimension::Kind::fixed;
    const std::int64_t size = fixed ? dimension.size : sizes[dimension.symbol];
    if (size == unbound) return std::nullopt;
    shape.push_back(size);
  }
  return at::zeros(shape, at::TensorOptions(*slot.dtype));
}

bool FastPath::bind(const TensorMap& given, std::span<const at::Tensor> carried, Sizes& sizes,
                    std::span<c10::IValue> stack) const {
  // Both are sorted by name, so one walk finds each input's place. State that is not given comes
  // last: only the inputs tell what size it starts with.
  std::size_t waiting = 0;
  auto item = given.begin();
  for (const Slot& slot : inputs_) {
    if (item != given.end() && item->first == slot.name) {
      if (!fits(slot, item->second, sizes)) return false;
      stack[slot.position] = slot.written ? item->second.clone() : item->second;
      ++item;
    } else if (slot.state) {
      ++waiting;
    } else {
      return false;
    }
  }
  if (item != given.end()) return false;
  for (std::size_t i = 0; waiting > 0 && i < inputs_.size(); ++i) {
    const Slot& slot = inputs_[i];
    if (!stack[slot.position].isNone()) continue;
    --waiting;
    if (*slot.state < carried.size() && carried[*slot.state].defined()) {
      if (!fits(slot, carried[*slot.state], sizes)) return false;
      const at::Tensor& kept = carried[*slot.state];
      stack[slot.position] = slot.written ? kept.clone() : kept;
    } else {
      if (!slot.zeros) return false;
      auto start = zeros_of(slot, sizes);
      if (!start) return false;
      stack[slot.position] = std::move(*start);
    }
  }
  return true;
}

std::optional<TensorMap> FastPath::outputs(const c10::IValue& result, Sizes& sizes) const {
  c10::ArrayRef<c10::IValue> values(result);
  bool shared = false;
  if (tuple_) {
    if (!result.isTuple()) return std::nullopt;
    shared = result.use_count() > 1;  // a tuple that the module keeps
    values = result.toTupleRef().elements();
    if (values.size() != outputs_.size()) return std::nullopt;
  }
  TensorMap outputs;
  for (const Slot& slot : outputs_) {
    const c10::IValue& value = values[slot.position];
    if (!value.isTensor()) return std::nullopt;
    const at::Tensor& returned = value.toTensor();
    if (!returned.defined() || returned.layout() != at::kStrided) return std::nullopt;
    at::Tensor tensor = owned(returned, shared || value.use_count() > 1);
    if (!fits(slot, tensor, sizes)) return std::nullopt;
    outputs.emplace_hint(outputs.end(), slot.name, std::move(tensor));
  }
  return outputs;
}

}  // namespace torchship

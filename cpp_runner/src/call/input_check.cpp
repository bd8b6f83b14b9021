#include "call/input_check.h"

#include <torchship/dtype.h>
#include <torchship/error.h>

#include "base/bytes.h"
#include "base/join.h"
#include "io/plain_tensor.h"

#include <algorithm>

namespace torchship {
namespace {

std::string joined(const std::vector<std::string>& names) {
  return names.empty() ? "nothing" : join(names, ", ");
}

std::string taken(const Method& method) {
  std::vector<std::string> names;
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) names.push_back(leaf->name);
  }
  return "method '" + method.name + "' takes " + joined(names);
}

bool single_number(const at::Tensor& tensor) {
  return tensor.dim() == 0 || (tensor.dim() == 1 && tensor.size(0) == 1);
}

/// Numbers and strings.
bool scalar_fits(const Node& leaf, const at::Tensor& tensor) {
  switch (leaf.kind) {
    case Node::Kind::integer:
      return single_number(tensor) && tensor.scalar_type() == at::kLong;
    case Node::Kind::real:
      return single_number(tensor) && tensor.scalar_type() == at::kDouble;
    case Node::Kind::boolean:
      return single_number(tensor) && tensor.scalar_type() == at::kBool;
    default:
      return tensor.dim() == 1 && tensor.scalar_type() == at::kByte &&
             is_utf8(std::string_view(static_cast<const char*>(tensor.const_data_ptr()),
                                      static_cast<std::size_t>(tensor.numel())));
  }
}

}  // namespace

std::optional<std::string> Symbols::mismatch(const Node& leaf, const at::Tensor& tensor) {
  const auto text = [&](const std::string& with) {
    return "expected " + describe(leaf) + with + ", got " + describe(tensor);
  };
  if (leaf.kind != Node::Kind::tensor) {
    return scalar_fits(leaf, tensor) ? std::nullopt : std::optional(text(""));
  }
  if (leaf.dtype && *leaf.dtype != tensor.scalar_type()) return text("");
  if (!leaf.shape) return std::nullopt;
  if (static_cast<std::int64_t>(leaf.shape->size()) != tensor.dim()) return text("");
  auto sizes = sizes_;
  std::vector<std::string> conflicts;
  for (std::size_t i = 0; i < leaf.shape->size(); ++i) {
    const std::int64_t size = tensor.size(static_cast<std::int64_t>(i));
    const Dimension& dimension = (*leaf.shape)[i];
    if (const auto* fixed = std::get_if<std::int64_t>(&dimension)) {
      if (*fixed != size) return text("");
    } else if (const auto* symbol = std::get_if<std::string>(&dimension)) {
      const auto [known, is_new] = sizes.try_emplace(*symbol, size);
      if (!is_new && known->second != size) {
        conflicts.push_back(*symbol + "=" + std::to_string(known->second));
      }
    }
  }
  if (!conflicts.empty()) return text(" with " + join(conflicts, ", "));
  sizes_ = std::move(sizes);
  return std::nullopt;
}

std::optional<std::int64_t> Symbols::find(const std::string& symbol) const {
  const auto known = sizes_.find(symbol);
  return known == sizes_.end() ? std::nullopt : std::optional(known->second);
}

const Node* find_input(const Method& method, std::string_view name) {
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      if (matches(leaf->name, name)) return leaf;
    }
  }
  return nullptr;
}

void check_names(const Method& method, const TensorMap& inputs) {
  for (const auto& [name, tensor] : inputs) {
    if (find_input(method, name) == nullptr) {
      throw InputError("unknown input '" + name + "': " + taken(method));
    }
  }
}

void check_inputs(const Method& method, const TensorMap& inputs, Symbols& symbols) {
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      for (const auto& [name, tensor] : inputs) {
        if (!matches(leaf->name, name)) continue;
        if (const auto reason = symbols.mismatch(*leaf, tensor)) {
          throw InputError("input '" + name + "': " + *reason);
        }
      }
    }
  }
}

at::Tensor dense(const Method& method, const std::string& name, const at::Tensor& tensor,
                 c10::Device device) {
  const auto wrong = [&](const std::string& got) {
    const Node* leaf = find_input(method, name);
    return InputError("input '" + name + "': expected " +
                      (leaf == nullptr ? "a tensor" : describe(*leaf)) + ", got " + got);
  };
  if (!tensor.defined()) throw wrong("no tensor");
  if (tensor.layout() != at::kStrided) throw wrong("one that is not dense");
  if (!tensor.device().is_cpu() && tensor.device() != device) {
    throw wrong(describe(tensor) + " on " + tensor.device().str());
  }
  return plain(tensor.to(device));
}

TensorMap on_cpu(TensorMap tensors) {
  for (auto& [name, tensor] : tensors) {
    if (!tensor.device().is_cpu()) tensor = tensor.to(at::kCPU);
  }
  return tensors;
}

void missing_input(const Method& method, const TensorMap& inputs, const std::string& name) {
  std::vector<std::string> given;
  for (const auto& [input, tensor] : inputs) given.push_back(input);
  throw InputError("missing input '" + name + "': " + taken(method) + "; got " + joined(given));
}

}  // namespace torchship

#include <torchship/error.h>
#include <torchship/session.h>

#include "base/join.h"
#include "call/call.h"
#include "call/complete_inputs.h"
#include "call/input_check.h"
#include "call/json_inputs.h"
#include "call/methods.h"
#include "runtime/runtime_scope.h"

#include <ATen/ops/tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <algorithm>

namespace torchship {
namespace {

std::string carried_names(const Method& method) {
  return "method '" + method.name + "' carries " +
         (method.state.empty() ? "no state" : join(method.state, ", ", &State::input));
}

/// The dimension `batch` of each state; raises UsageError where rows cannot start anew.
std::vector<std::int64_t> row_dimensions(const Method& method) {
  if (method.state.empty()) throw UsageError("no rows to reset: " + carried_names(method));
  std::vector<std::int64_t> dimensions;
  for (const State& state : method.state) {
    const std::string what = "rows of state '" + state.input + "' cannot be reset: ";
    if (state.start != State::Start::zeros) {
      throw UsageError(what + "it starts absent, not as zeros; reset all rows together");
    }
    const Node& leaf = *find_input(method, state.input);
    const auto found = std::ranges::find_if(*leaf.shape, [](const Dimension& dimension) {
      const auto* symbol = std::get_if<std::string>(&dimension);
      return symbol != nullptr && *symbol == batch_symbol;
    });
    if (found == leaf.shape->end()) {
      throw UsageError(what + describe(leaf) + " has no dimension 'batch'");
    }
    dimensions.push_back(found - leaf.shape->begin());
  }
  return dimensions;
}

}  // namespace

Session::Session(const Archive& archive, const std::string& method) : call_(archive.call(method)) {}

Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::Session(const Session&) = default;
Session& Session::operator=(const Session&) = default;

const Method& Session::method() const {
  return call_->method();
}

TensorMap Session::run(const TensorMap& inputs, OutputCheck check) const {
  const RuntimeScope scope;
  return on_cpu((*call_)(inputs, {}, check));
}

TensorMap Session::step(const TensorMap& inputs, OutputCheck check) {
  const RuntimeScope scope;
  TensorMap outputs = (*call_)(inputs, state_, check);
  state_ = carried_state(method(), outputs);
  return on_cpu(std::move(outputs));
}

void Session::reset() {
  state_.clear();
}

void Session::reset(std::span<const std::int64_t> rows) {
  const std::vector<std::int64_t> dimensions = row_dimensions(method());
  if (state_.empty()) return;
  const std::int64_t size = state_.front().size(dimensions.front());
  for (const std::int64_t row : rows) {
    if (row < 0 || row >= size) {
      throw InputError("row " + std::to_string(row) + " cannot be reset: the state has " +
                       std::to_string(size) + (size == 1 ? " row" : " rows"));
    }
  }
  if (rows.empty()) return;
  const RuntimeScope scope;
  const at::Tensor index =
      at::tensor(at::ArrayRef<std::int64_t>(rows.data(), rows.size())).to(call_->device());
  std::vector<at::Tensor> next;
  next.reserve(state_.size());
  for (std::size_t i = 0; i < state_.size(); ++i) {
    // A copy: outputs that were returned share the state's memory.
    next.push_back(state_[i].index_fill(dimensions[i], index, 0));
  }
  state_ = std::move(next);
}

TensorMap Session::save_state() const {
  const DefaultFloatingPoint mode;
  const c10::InferenceMode ordinary(false);  // tensors that the caller may write to
  TensorMap saved;
  for (std::size_t i = 0; i < state_.size(); ++i) {
    if (!state_[i].defined()) continue;
    saved.emplace(method().state[i].input, state_[i].to(at::kCPU, state_[i].scalar_type(),
                                                        /*non_blocking=*/false, /*copy=*/true));
  }
  return saved;
}

void Session::load_state(const TensorMap& state) {
  for (const auto& [name, tensor] : state) {
    if (!method().is_state_input(name)) {
      throw InputError("unknown state '" + name + "': " + carried_names(method()));
    }
  }
  if (state.empty()) return reset();
  const RuntimeScope scope;
  Symbols symbols;
  std::vector<at::Tensor> next;
  for (const State& carried : method().state) {
    const auto found = state.find(carried.input);
    if (found == state.end()) {
      if (carried.start == State::Start::absent) {
        next.emplace_back();
        continue;
      }
      throw InputError("missing state '" + carried.input + "': " + carried_names(method()));
    }
    const at::Tensor given = dense(method(), carried.input, found->second, call_->device());
    if (const auto reason = symbols.mismatch(*find_input(method(), carried.input), given)) {
      throw InputError("state '" + carried.input + "': " + *reason);
    }
    next.push_back(given.clone());
  }
  state_ = std::move(next);
}

TensorMap Session::inputs_from_json(const nlohmann::json& object) const {
  return torchship::inputs_from_json(method(), object);
}

Methods methods_of(const Archive& archive) {
  if (const Manifest* manifest = archive.manifest()) {
    return {.callable = manifest->methods, .not_callable = {}};
  }
  Methods methods;
  const auto module = archive.module();
  for (const auto& method : module->get_methods()) {
    try {
      methods.callable.push_back(method_from_schema(method.name(), method.function().getSchema()));
    } catch (const UsageError&) {
      methods.not_callable.push_back(method.name());  // takes what no file can carry
    }
  }
  return methods;
}

}  // namespace torchship

// The recurrent state of a session: forgotten, saved, taken from elsewhere, row by row.

#include <torchship/error.h>
#include <torchship/session.h>

#include "call.h"
#include "input_check.h"
#include "runtime_scope.h"

#include <ATen/ops/tensor.h>

#include <algorithm>

namespace torchship {
namespace {

constexpr std::string_view batch_symbol = "batch";

std::string carried_names(const Method& method) {
  std::string names;
  for (const State& state : method.state) names += (names.empty() ? "" : ", ") + state.input;
  return "method '" + method.name + "' carries " + (names.empty() ? "no state" : names);
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

}  // namespace torchship

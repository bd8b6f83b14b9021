#include "snake/player.h"

#include <torchship/error.h>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace torchship::snake {
namespace {

/// SplitMix64 as models/sampling.py writes it: it adds before it mixes.
std::uint64_t scatter(std::uint64_t z) {
  return snake_mix(z + SNAKE_GOLDEN_GAMMA);
}

/// Besides its state, a policy takes what the agents see, and which of them have died.
void check_policy(const Archive& archive, const Method& method) {
  const auto refuse = [&] {
    throw UsageError("model '" + archive.name() + "' has no method '" + method.name +
                     "' that takes obs and returns actions: it plays no snake");
  };
  bool sees = false;
  for (const Argument& argument : method.inputs) {
    for (const Node* leaf : leaves(argument.value)) {
      sees = sees || leaf->name == "obs";
      if (leaf->name != "obs" && leaf->name != "reset" && !method.is_state_input(leaf->name)) {
        refuse();
      }
    }
  }
  const auto outputs = leaves(method.outputs);
  if (!sees || std::ranges::none_of(outputs, [](const Node* leaf) {
        return leaf->name == "actions" && leaf->dtype == at::kLong;
      })) {
    refuse();
  }
}

}  // namespace

SnakePlayer::SnakePlayer(const Archive& archive, const SnakeRules& rules, Choice choice)
    : model_(archive.name()),
      session_(archive, choice == Choice::drawn ? "sample" : "act"),
      snake_(rules) {
  check_policy(archive, session_.method());
  const auto agents = static_cast<std::int64_t>(snake_.agents());
  obs_ = at::empty({agents, Snake::side, Snake::side}, at::TensorOptions(at::kByte));
  died_ = at::empty({agents}, at::TensorOptions(at::kBool));
  actions_ = at::empty({agents}, at::TensorOptions(at::kLong));
}

void SnakePlayer::begin(std::uint64_t seed) {
  session_.reset();
  snake_.reset(seed);
  snake_.observe({obs_.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(obs_.numel())});
  first_.clear();
  if (takes("key")) first_.emplace("key", sampling_keys(seed, actions_.size(0)));
}

void SnakePlayer::step() {
  TensorMap inputs = std::move(first_);
  first_.clear();
  inputs.emplace("obs", obs_);
  if (takes("reset")) {
    std::ranges::copy(snake_.died(), died_.mutable_data_ptr<bool>());
    inputs.emplace("reset", died_);
  }
  const TensorMap outputs = session_.step(inputs);
  const at::Tensor chosen = outputs.at("actions").contiguous();
  if (chosen.numel() != actions_.numel()) {
    throw OutputError("model '" + model_ + "' chose " + std::to_string(chosen.numel()) +
                      " actions for " + std::to_string(actions_.numel()) + " agents");
  }
  std::ranges::copy_n(chosen.const_data_ptr<std::int64_t>(), chosen.numel(),
                      actions_.mutable_data_ptr<std::int64_t>());
  try {
    snake_.step(actions());
  } catch (const std::invalid_argument& error) {
    throw OutputError("model '" + model_ + "': " + error.what());
  }
  snake_.observe({obs_.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(obs_.numel())});
}

std::span<const std::uint8_t> SnakePlayer::observations() const {
  return {obs_.const_data_ptr<std::uint8_t>(), static_cast<std::size_t>(obs_.numel())};
}

std::span<const std::int64_t> SnakePlayer::actions() const {
  return {actions_.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(actions_.numel())};
}

bool SnakePlayer::takes(std::string_view input) const {
  return std::ranges::any_of(session_.method().inputs,
                             [&](const Argument& argument) { return argument.name == input; });
}

at::Tensor sampling_keys(std::uint64_t seed, std::int64_t count) {
  at::Tensor keys = at::empty({count}, at::TensorOptions(at::kLong));
  auto* key = keys.mutable_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < count; ++row) {
    key[row] =
        std::bit_cast<std::int64_t>(scatter(static_cast<std::uint64_t>(row) + scatter(seed)));
  }
  return keys;
}

}  // namespace torchship::snake

#pragma once

/// A policy from an archive that plays snake: the session and the game, stepped together.

#include <torchship/session.h>

#include "snake/snake.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace torchship::snake {

/// Which of a policy's methods plays: `act` takes the likeliest action, `sample` draws one.
enum class Choice { likeliest, drawn };

/// One model moves every agent of every field: its batch is [agents]. One thread at a time.
class SnakePlayer {
 public:
  /// Raises UsageError when the archive's model is no policy that plays this game, and for the
  /// rules that Snake refuses.
  SnakePlayer(const Archive& archive, const SnakeRules& rules, Choice choice);

  /// Begins the game of `seed`, of the recurrent state and of the draws too.
  void begin(std::uint64_t seed);

  /// Lets the policy choose, and plays one step. Raises what Session::step raises, and OutputError
  /// when the policy returns an action that the game does not have.
  void step();

  const Snake& game() const { return snake_; }
  const std::string& method() const { return session_.method().name; }
  /// What the agents see now, [agents, 11, 11].
  std::span<const std::uint8_t> observations() const;
  /// What the policy chose in the last step, [agents].
  std::span<const std::int64_t> actions() const;

 private:
  bool takes(std::string_view input) const;

  std::string model_;
  Session session_;
  Snake snake_;
  at::Tensor obs_;      // uint8[agents, 11, 11]
  at::Tensor died_;     // bool[agents]
  at::Tensor actions_;  // int64[agents]
  TensorMap first_;     // what only the first step of a game brings: the keys of the draws
};

/// One key per row, as models/sampling.py has them: int64[count].
at::Tensor sampling_keys(std::uint64_t seed, std::int64_t count);

}  // namespace torchship::snake

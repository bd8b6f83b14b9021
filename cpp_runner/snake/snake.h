#pragma once

/// The game of game.h as a C++ object, with its memory. Nothing here knows a model. One thread at a
/// time; games of different objects share nothing.

#include "snake/game.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace torchship::snake {

/// `fields` independent fields side by side, `snakes` in each. Sizes in cells, without walls.
struct SnakeRules {
  int fields = 1;
  int snakes = 16;
  int width = 72;
  int height = 72;
  int food = 16;
  int max_length = 32;  // segments
};

/// What an agent has reached since the reset.
using SnakeScore = ::snake_score;

/// The games. An agent, `field * snakes + slot`, outlives its snakes: after a death it gets a new
/// snake.
class Snake {
 public:
  static constexpr int reach = SNAKE_REACH;  // cells seen in each direction; the walls' thickness
  static constexpr int side = SNAKE_SIDE;
  static constexpr std::size_t window = SNAKE_WINDOW;  // tiles that an agent sees

  /// Raises UsageError when a size is below 1, or when snakes and food may fill more than half of a
  /// field. Begins the games of seed 0.
  explicit Snake(const SnakeRules& rules);

  /// Begins new games; the same seed begins the same games.
  void reset(std::uint64_t seed) { snake_reset(game_, seed); }

  /// Plays one step of all agents, `actions` holding [agents] of them, 0..3. Raises
  /// std::invalid_argument when there are more or fewer, or one is no action.
  void step(std::span<const std::int64_t> actions);

  /// Writes what every agent sees into `windows`, [agents, 11, 11] tiles, the head in the middle;
  /// of an agent that died in the last step, what its new snake sees. Raises std::invalid_argument
  /// when there is room for more or fewer tiles.
  void observe(std::span<std::uint8_t> windows) const;

  std::size_t agents() const {
    return static_cast<std::size_t>(rules_.fields) * static_cast<std::size_t>(rules_.snakes);
  }
  const SnakeRules& rules() const { return rules_; }

  /// Of the last step, [agents]: +1 for food, +0.5 for corpse, -1 for death.
  std::span<const float> rewards() const { return {snake_rewards(game_), agents()}; }
  /// Whose snake died in the last step, [agents] of 0 or 1.
  std::span<const std::uint8_t> died() const { return {snake_died(game_), agents()}; }
  /// Segments, [agents].
  std::span<const std::int64_t> lengths() const { return {snake_lengths(game_), agents()}; }
  std::span<const SnakeScore> scores() const { return {snake_scores(game_), agents()}; }

  /// A field's tiles with its walls, [height + 10, width + 10].
  std::span<const std::uint8_t> field(int number) const;

 private:
  SnakeRules rules_;
  std::unique_ptr<std::byte[]> memory_;
  ::snake_game* game_;  // in memory_
};

}  // namespace torchship::snake

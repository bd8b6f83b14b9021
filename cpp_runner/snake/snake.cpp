#include "snake/snake.h"

#include <torchship/error.h>

#include <stdexcept>
#include <string>

namespace torchship::snake {
namespace {

/// The rules as the game takes them. Raises UsageError when it cannot be played by them.
::snake_rules checked(const SnakeRules& rules) {
  const ::snake_rules checked{rules.fields, rules.snakes, rules.width,
                              rules.height, rules.food,   rules.max_length};
  const std::int32_t verdict = snake_check(&checked);
  if (verdict == SNAKE_BAD_SIZE) {
    throw UsageError("snake: every size must be at least 1 and at most " +
                     std::to_string(SNAKE_LARGEST));
  }
  if (verdict == SNAKE_TOO_CROWDED) {
    throw UsageError(
        "snake: " + std::to_string(rules.snakes) + " snakes of up to " +
        std::to_string(rules.max_length) + " segments and " + std::to_string(rules.food) +
        " food need " +
        std::to_string(2 * (std::int64_t{rules.snakes} * rules.max_length + rules.food)) +
        " cells, and the field has " + std::to_string(std::int64_t{rules.width} * rules.height));
  }
  return checked;
}

}  // namespace

Snake::Snake(const SnakeRules& rules) : rules_(rules) {
  const ::snake_rules given = checked(rules);
  memory_ = std::make_unique_for_overwrite<std::byte[]>(snake_size(&given));
  game_ = snake_init(memory_.get(), &given);
}

void Snake::step(std::span<const std::int64_t> actions) {
  if (actions.size() != agents()) {
    throw std::invalid_argument("expected " + std::to_string(agents()) + " actions, got " +
                                std::to_string(actions.size()));
  }
  const std::int32_t refused = snake_step(game_, actions.data());
  if (refused >= 0) {
    throw std::invalid_argument("an action is 0 (up), 1 (down), 2 (left) or 3 (right), got " +
                                std::to_string(actions[static_cast<std::size_t>(refused)]));
  }
}

void Snake::observe(std::span<std::uint8_t> windows) const {
  if (windows.size() != agents() * window) {
    throw std::invalid_argument("expected room for " + std::to_string(agents() * window) +
                                " tiles, got " + std::to_string(windows.size()));
  }
  snake_observe(game_, windows.data());
}

std::span<const std::uint8_t> Snake::field(int number) const {
  const std::size_t size = static_cast<std::size_t>(rules_.width + 2 * reach) *
                           static_cast<std::size_t>(rules_.height + 2 * reach);
  return {snake_tiles(game_) + static_cast<std::size_t>(number) * size, size};
}

}  // namespace torchship::snake

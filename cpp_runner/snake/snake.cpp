#include "snake/snake.h"

#include <torchship/error.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace torchship::snake {
namespace {

constexpr int colours = 4;
constexpr int tries = 32;  // draws near where food was, before one anywhere
constexpr float food_reward = 1.0F;
constexpr float corpse_reward = 0.5F;
constexpr float death_reward = -1.0F;

std::uint64_t below(std::uint64_t count, std::uint64_t drawn) {
  return (drawn >> 32) * count >> 32;
}

std::size_t size(int number) {
  return static_cast<std::size_t>(number);
}

void check(const SnakeRules& rules) {
  if (std::min({rules.fields, rules.snakes, rules.width, rules.height, rules.food,
                rules.max_length}) < 1) {
    throw UsageError("snake: every size must be at least 1");
  }
  const auto needed = 2 * (std::int64_t{rules.snakes} * rules.max_length + rules.food);
  const auto cells = std::int64_t{rules.width} * rules.height;
  if (needed > cells) {
    throw UsageError("snake: " + std::to_string(rules.snakes) + " snakes of up to " +
                     std::to_string(rules.max_length) + " segments and " +
                     std::to_string(rules.food) + " food need " + std::to_string(needed) +
                     " cells, and the field has " + std::to_string(cells));
  }
}

}  // namespace

Snake::Snake(const SnakeRules& rules)
    : rules_(rules),
      stride_(size(rules.width + 2 * reach)),
      size_(stride_ * size(rules.height + 2 * reach)) {
  check(rules);
  const auto row = static_cast<std::ptrdiff_t>(stride_);
  delta_ = {-row, row, -1, 1};
  std::size_t next = 0;
  for (int y = -reach; y <= reach; ++y) {
    for (int x = -reach; x <= reach; ++x) around_[next++] = y * row + x;
  }
  const std::size_t count = size(rules.fields) * size(rules.snakes);
  tiles_.assign(size(rules.fields) * size_, wall);
  claims_.assign(tiles_.size(), 0);
  bodies_.assign(count * size(rules.max_length), 0);
  head_.assign(count, 0);
  length_.assign(count, 0);
  heading_.assign(count, 0);
  target_.assign(count, 0);
  found_.assign(count, 0);
  died_.assign(count, 0);
  rewards_.assign(count, 0.0F);
  scores_.assign(count, {});
  keys_.assign(size(rules.fields), 0);
  drawn_.assign(size(rules.fields), 0);
}

void Snake::reset(std::uint64_t seed) {
  std::ranges::fill(tiles_, wall);
  std::ranges::fill(drawn_, 0);
  std::ranges::fill(died_, 0);
  std::ranges::fill(rewards_, 0.0F);
  std::ranges::fill(scores_, SnakeScore{});
  for (int field = 0; field < rules_.fields; ++field) {
    keys_[size(field)] = mix(mix(seed) + static_cast<std::uint64_t>(field));
    for (int y = 0; y < rules_.height; ++y) {
      const auto start = size(field) * size_ + size(y + reach) * stride_ + reach;
      std::fill_n(tiles_.begin() + static_cast<std::ptrdiff_t>(start), rules_.width, empty);
    }
    for (std::size_t slot = 0; slot < size(rules_.snakes); ++slot)
      add_snake(first_agent(field) + slot);
    for (int i = 0; i < rules_.food; ++i) feed(field, nullptr);
  }
}

void Snake::step(std::span<const std::int64_t> chosen) {
  if (chosen.size() != agents()) {
    throw std::invalid_argument("expected " + std::to_string(agents()) + " actions, got " +
                                std::to_string(chosen.size()));
  }
  for (const std::int64_t action : chosen) {
    if (action < 0 || action >= actions) {
      throw std::invalid_argument("an action is 0 (up), 1 (down), 2 (left) or 3 (right), got " +
                                  std::to_string(action));
    }
  }
  find_deaths(chosen);
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    if (died_[agent] != 0) remove_snake(agent);
  }
  // All tails before all heads: they leave their cells together.
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    if (died_[agent] == 0) release_tail(agent);
  }
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    if (died_[agent] == 0) move_head(agent);
  }
  for (int field = 0; field < rules_.fields; ++field) {
    const std::size_t first = first_agent(field);
    const std::size_t last = first + size(rules_.snakes);
    for (std::size_t agent = first; agent < last; ++agent) {
      if (died_[agent] != 0) add_snake(agent);
    }
    for (std::size_t agent = first; agent < last; ++agent) {
      if (found_[agent] == food) feed(field, &target_[agent]);
    }
  }
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    const bool ate = found_[agent] == food;
    const bool scavenged = found_[agent] == corpse;
    const bool dead = died_[agent] != 0;
    rewards_[agent] = ate ? food_reward : scavenged ? corpse_reward : dead ? death_reward : 0.0F;
    scores_[agent].food += ate;
    scores_[agent].corpses += scavenged;
    scores_[agent].deaths += dead;
  }
}

/// Turns the snakes, and finds each one's target, what is there, and whether it dies of that.
void Snake::find_deaths(std::span<const std::int64_t> chosen) {
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    // Up and down, and left and right, are one bit apart: against the heading is going on.
    if (chosen[agent] != (heading_[agent] ^ 1)) heading_[agent] = chosen[agent];
    target_[agent] = static_cast<Cell>(static_cast<std::ptrdiff_t>(segment(agent, 0)) +
                                       delta_[static_cast<std::size_t>(heading_[agent])]);
    auto& claims = claims_[target_[agent]];
    claims = static_cast<std::uint8_t>(claims + 1);  // at most 4: a cell has four neighbours
  }
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    const std::uint8_t ahead = tiles_[target_[agent]];
    died_[agent] = ahead >= wall || claims_[target_[agent]] > 1 ? 1 : 0;
    found_[agent] = died_[agent] != 0 ? std::uint8_t{empty} : ahead;
  }
  for (const Cell cell : target_) claims_[cell] = 0;
}

void Snake::remove_snake(std::size_t agent) {
  for (std::int64_t i = 0; i < length_[agent]; ++i) {
    tiles_[segment(agent, i)] = i % 2 == 1 ? corpse : empty;
  }
}

void Snake::release_tail(std::size_t agent) {
  const bool eats = found_[agent] == food || found_[agent] == corpse;
  if (eats && length_[agent] < rules_.max_length) {
    ++length_[agent];  // the last segment stays, and the head to come is one more
  } else {
    tiles_[segment(agent, length_[agent] - 1)] = empty;
  }
}

void Snake::move_head(std::size_t agent) {
  head_[agent] = (head_[agent] + 1) % rules_.max_length;
  segment(agent, 0) = target_[agent];
  tiles_[target_[agent]] = static_cast<std::uint8_t>(body + agent % size(rules_.snakes) % colours);
}

/// Places a new snake of one segment.
void Snake::add_snake(std::size_t agent) {
  const int field = static_cast<int>(agent / size(rules_.snakes));
  std::uint64_t drawn = 0;
  Cell cell = 0;
  do {
    drawn = draw(field);
    cell = anywhere(field, drawn);
  } while (!is_free(cell));
  heading_[agent] = static_cast<std::int64_t>(drawn & 3);
  head_[agent] = 0;
  length_[agent] = 1;
  segment(agent, 0) = cell;
  tiles_[cell] = static_cast<std::uint8_t>(body + agent % size(rules_.snakes) % colours);
}

/// Places new food within sight of the cell where some was `eaten`, or anywhere.
void Snake::feed(int field, const Cell* eaten) {
  for (int attempt = 0;; ++attempt) {
    const std::uint64_t drawn = draw(field);
    // As far as a window reaches out of the field, there is wall.
    const Cell cell =
        eaten != nullptr && attempt < tries
            ? static_cast<Cell>(static_cast<std::ptrdiff_t>(*eaten) + around_[below(window, drawn)])
            : anywhere(field, drawn);
    if (!is_free(cell)) continue;
    tiles_[cell] = food;
    return;
  }
}

void Snake::observe(std::span<std::uint8_t> windows) const {
  if (windows.size() != agents() * window) {
    throw std::invalid_argument("expected room for " + std::to_string(agents() * window) +
                                " tiles, got " + std::to_string(windows.size()));
  }
  auto out = windows.begin();
  for (std::size_t agent = 0; agent < agents(); ++agent) {
    const Cell head =
        bodies_[agent * size(rules_.max_length) + static_cast<std::size_t>(head_[agent])];
    // Row by row: a row of the window is one piece of the field.
    const std::size_t corner = head - reach * stride_ - reach;
    for (std::size_t y = 0; y < side; ++y) {
      const auto row = tiles_.begin() + static_cast<std::ptrdiff_t>(corner + y * stride_);
      out = std::copy_n(row, side, out);
    }
  }
}

std::span<const std::uint8_t> Snake::field(int number) const {
  return std::span(tiles_).subspan(size(number) * size_, size_);
}

/// The cell of a snake's segment, counted from the head as 0.
Snake::Cell& Snake::segment(std::size_t agent, std::int64_t from_head) {
  const std::int64_t ring = rules_.max_length;
  const std::int64_t place = (head_[agent] - from_head + ring) % ring;
  return bodies_[agent * size(rules_.max_length) + static_cast<std::size_t>(place)];
}

std::uint64_t Snake::draw(int field) {
  return mix(keys_[size(field)] + ++drawn_[size(field)] * golden_gamma);
}

Snake::Cell Snake::anywhere(int field, std::uint64_t drawn) const {
  const auto number = below(size(rules_.width) * size(rules_.height), drawn);
  const std::size_t y = number / size(rules_.width);
  const std::size_t x = number % size(rules_.width);
  return size(field) * size_ + (y + reach) * stride_ + x + reach;
}

}  // namespace torchship::snake

#pragma once

/// The game of models/snake/game.py, bit for bit: the same seed and the same actions give the same
/// fields, observations and rewards. The rules are written down there. Nothing here knows a model.
/// One thread at a time; games of different objects share nothing.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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
struct SnakeScore {
  std::int64_t food = 0;
  std::int64_t corpses = 0;
  std::int64_t deaths = 0;
};

/// The games. An agent, `field * snakes + slot`, outlives its snakes: after a death it gets a new
/// snake.
class Snake {
 public:
  static constexpr int reach = 5;  // cells seen in each direction; also the walls' thickness
  static constexpr int side = 2 * reach + 1;
  static constexpr std::size_t window = side * side;  // tiles that an agent sees
  static constexpr int actions = 4;                   // up, down, left, right

  /// Tiles; a snake's is `body` + its slot mod 4, up to 7.
  enum Tile : std::uint8_t { empty = 0, food = 1, corpse = 2, wall = 3, body = 4 };

  /// Raises UsageError when a size is below 1, or when snakes and food may fill more than half of a
  /// field.
  explicit Snake(const SnakeRules& rules);

  /// Begins new games; the same seed begins the same games.
  void reset(std::uint64_t seed);

  /// Plays one step of all agents, `chosen` holding [agents] actions 0..3. Raises
  /// std::invalid_argument when there are more or fewer, or one is no action.
  void step(std::span<const std::int64_t> chosen);

  /// Writes what every agent sees into `windows`, [agents, 11, 11] tiles, the head in the middle;
  /// of an agent that died in the last step, what its new snake sees.
  void observe(std::span<std::uint8_t> windows) const;

  std::size_t agents() const { return heading_.size(); }
  const SnakeRules& rules() const { return rules_; }

  /// Of the last step, [agents]: +1 for food, +0.5 for corpse, -1 for death.
  std::span<const float> rewards() const { return rewards_; }
  /// Whose snake died in the last step, [agents] of 0 or 1.
  std::span<const std::uint8_t> died() const { return died_; }
  /// Segments, [agents].
  std::span<const std::int64_t> lengths() const { return length_; }
  std::span<const SnakeScore> scores() const { return scores_; }

  /// A field's tiles with its walls, [height + 10, width + 10].
  std::span<const std::uint8_t> field(int number) const;

 private:
  using Cell = std::size_t;  // counted row by row over all fields and their walls

  std::size_t first_agent(int field) const {
    return static_cast<std::size_t>(field * rules_.snakes);
  }
  Cell& segment(std::size_t agent, std::int64_t from_head);
  void find_deaths(std::span<const std::int64_t> chosen);
  void remove_snake(std::size_t agent);
  void release_tail(std::size_t agent);
  void move_head(std::size_t agent);
  void add_snake(std::size_t agent);
  void feed(int field, const Cell* eaten);
  std::uint64_t draw(int field);
  Cell anywhere(int field, std::uint64_t drawn) const;
  bool is_free(Cell cell) const { return tiles_[cell] == empty || tiles_[cell] == corpse; }

  SnakeRules rules_;
  std::size_t stride_;                         // cells of a row with its walls
  std::size_t size_;                           // cells of a field with its walls
  std::array<std::ptrdiff_t, actions> delta_;  // to the cell in each direction
  std::array<std::ptrdiff_t, window> around_;  // from a cell to those seen from there
  std::vector<std::uint8_t> tiles_;            // [fields * size_]
  std::vector<std::uint8_t> claims_;           // [fields * size_], all 0 between steps
  std::vector<Cell> bodies_;                   // [agents, max_length], a ring of cells each
  std::vector<std::int64_t> head_;             // [agents], the head's place in the ring
  std::vector<std::int64_t> length_;           // [agents]
  std::vector<std::int64_t> heading_;          // [agents]
  std::vector<Cell> target_;                   // [agents], where the last step led
  std::vector<std::uint8_t> found_;            // [agents], the tile that was there, if alive
  std::vector<std::uint8_t> died_;             // [agents]
  std::vector<float> rewards_;                 // [agents]
  std::vector<SnakeScore> scores_;             // [agents]
  std::vector<std::uint64_t> keys_;            // [fields], of the random numbers
  std::vector<std::uint64_t> drawn_;           // [fields], how many were drawn
};

/// SplitMix64's output function.
constexpr std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

/// By how much SplitMix64's state moves on from draw to draw: 2**64 / golden ratio.
inline constexpr std::uint64_t golden_gamma = 0x9E3779B97F4A7C15U;

}  // namespace torchship::snake

// Compares the game with games that Python has played, with the same source.

#include "snake/snake.h"

#include <torchship/error.h>

#include "support.h"

#include <algorithm>

namespace torchship::snake_test {
namespace {

using namespace torchship::testing;
using snake::Snake;
using snake::SnakeRules;

struct Played {
  const char* name;
  SnakeRules rules;
  std::uint64_t seed;
};

// The same games as GAMES in make_snake.py.
const Played played[] = {
    {"training", {2, 16, 72, 72, 16, 32}, 7},
    {"crowded", {3, 5, 9, 8, 6, 6}, ~std::uint64_t{0}},
    {"tiny", {1, 1, 3, 2, 1, 2}, 0},
};

/// The values of one step; `values` has the shape [steps, agents...].
template <typename T>
std::vector<T> at_step(const at::Tensor& values, std::int64_t step) {
  const std::int64_t count = values.numel() / values.size(0);
  const T* first = values.const_data_ptr<T>() + step * count;
  return std::vector<T>(first, first + count);
}

template <typename T>
std::vector<T> copied(std::span<const T> values) {
  return {values.begin(), values.end()};
}

void expect_seen(const Snake& game, const TensorMap& seen, std::int64_t moment) {
  std::vector<std::uint8_t> windows(game.agents() * Snake::window);
  game.observe(windows);
  EXPECT_EQ(windows, at_step<std::uint8_t>(seen.at("obs"), moment));
  std::vector<std::uint8_t> tiles;
  for (int field = 0; field < game.rules().fields; ++field) {
    std::ranges::copy(game.field(field), std::back_inserter(tiles));
  }
  EXPECT_EQ(tiles, at_step<std::uint8_t>(seen.at("tiles"), moment));
}

TEST(snake, plays_as_in_python) {
  for (const Played& one : played) {
    const TensorMap seen = read_npz(bytes_of(artefact(std::string("snake_") + one.name + ".npz")));
    Snake game(one.rules);
    for (int again = 0; again < 2; ++again) {  // the second time after a reset
      game.reset(one.seed);
      expect_seen(game, seen, 0);
      for (std::int64_t step = 0; step < seen.at("actions").size(0); ++step) {
        game.step(at_step<std::int64_t>(seen.at("actions"), step));
        expect_seen(game, seen, step + 1);
        EXPECT_EQ(copied(game.rewards()), at_step<float>(seen.at("rewards"), step));
        EXPECT_EQ(copied(game.lengths()), at_step<std::int64_t>(seen.at("lengths"), step));
        const auto died = at_step<bool>(seen.at("died"), step);
        const auto food = at_step<std::int64_t>(seen.at("food"), step);
        const auto corpses = at_step<std::int64_t>(seen.at("corpses"), step);
        const auto deaths = at_step<std::int64_t>(seen.at("deaths"), step);
        for (std::size_t agent = 0; agent < game.agents(); ++agent) {
          EXPECT_EQ(game.died()[agent] != 0, static_cast<bool>(died[agent]));
          EXPECT_EQ(game.scores()[agent].food, food[agent]);
          EXPECT_EQ(game.scores()[agent].corpses, corpses[agent]);
          EXPECT_EQ(game.scores()[agent].deaths, deaths[agent]);
        }
        ASSERT_FALSE(HasFailure()) << one.name << ", step " << step;
      }
    }
  }
}

TEST(snake, refuses_impossible_games) {
  EXPECT_TRUE(contains(message_of<UsageError>([] { Snake({.snakes = 0}); }), "at least 1"));
  EXPECT_TRUE(contains(message_of<UsageError>([] { Snake({.width = 10}); }),
                       "16 snakes of up to 32 segments and 16 food need 1056 cells, and the field "
                       "has 720"));
  Snake game({1, 1, 18, 18, 1, 32});
  game.reset(0);
  EXPECT_TRUE(
      contains(message_of<std::invalid_argument>([&] { game.step(std::vector<std::int64_t>{4}); }),
               "got 4"));
  EXPECT_TRUE(contains(
      message_of<std::invalid_argument>([&] { game.step(std::vector<std::int64_t>{0, 1}); }),
      "expected 1 actions, got 2"));
}

}  // namespace
}  // namespace torchship::snake_test

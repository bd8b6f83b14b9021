// The text that shows a game in the terminal, byte for byte.

#include "snake/picture.h"

#include "support.h"

namespace torchship::picture_test {
namespace {

using snake::picture;
using snake::Snake;

// One character shows two cells: the upper one in the foreground colour, the lower one in the
// background colour. A colour is written only when it changes.
const std::string cell = "\xE2\x96\x80";
const std::string end = "\033[0m\n";

std::string upper(const std::string& colour) {
  return "\033[38;2;" + colour + "m";
}

std::string lower(const std::string& colour) {
  return "\033[48;2;" + colour + "m";
}

const std::string nothing = "16;20;24";
const std::string food = "255;210;74";
const std::string corpse = "122;92;88";
const std::string wall = "58;66;76";
const std::string first = "79;179;255";
const std::string second = "95;211;141";

/// Two fields of 5 x 3 cells, as models/snake/game.py plays them with this seed and these actions.
/// The first field has a tile of every kind: `#` wall, `.` empty, `*` food, `x` corpse, `a` and `b`
/// the two snakes:
///
///     #######
///     #b..x.#
///     #..**.#
///     #....a#
///     #######
Snake game() {
  Snake snake({.fields = 2, .snakes = 2, .width = 5, .height = 3, .food = 2, .max_length = 2});
  snake.reset(1);
  const std::vector<std::int64_t> actions{3, 3, 1, 1};
  snake.step(actions);
  snake.step(actions);
  return snake;
}

const std::string line_1 = upper(wall) + lower(wall) + cell + lower(second) + cell +
                           lower(nothing) + cell + cell + lower(corpse) + cell + lower(nothing) +
                           cell + lower(wall) + cell + end;
const std::string line_2 = upper(wall) + lower(wall) + cell + upper(nothing) + lower(nothing) +
                           cell + cell + upper(food) + cell + cell + upper(nothing) + lower(first) +
                           cell + upper(wall) + lower(wall) + cell + end;
// The number of rows is odd, so the last row fills both halves.
const std::string line_3 =
    upper(wall) + lower(wall) + cell + cell + cell + cell + cell + cell + cell + end;

TEST(picture, small_field) {
  EXPECT_EQ(picture(game(), 0, 0, 0), line_1 + line_2 + line_3);
  EXPECT_EQ(picture(game(), 0, 80, 24), line_1 + line_2 + line_3);
}

TEST(picture, cropped_to_the_terminal) {
  EXPECT_EQ(picture(game(), 0, 7, 2), line_1 + line_2);
  const std::string corner = upper(wall) + lower(wall) + cell + lower(second) + cell + end;
  EXPECT_EQ(picture(game(), 0, 2, 1), corner);
}

TEST(picture, second_field) {
  const std::string other = picture(game(), 1, 0, 1);
  //     #######
  //     #.....#
  EXPECT_EQ(other, upper(wall) + lower(wall) + cell + lower(nothing) + cell + cell + cell + cell +
                       cell + lower(wall) + cell + end);
}

}  // namespace
}  // namespace torchship::picture_test

#include "snake/picture.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace torchship::snake {
namespace {

// Tiles' colours, as `torchship play` has them: empty, food, corpse, wall, then the snakes.
constexpr std::array palette{"16;20;24",   "255;210;74", "122;92;88",   "58;66;76",
                             "79;179;255", "95;211;141", "255;122;107", "197;139;255"};
constexpr std::string_view upper_half = "\u2580";  // in the foreground's colour

}  // namespace

std::string picture(const Snake& snake, int field, std::size_t columns, std::size_t lines) {
  constexpr std::size_t hidden = Snake::reach - 1;  // walls are one thick in the picture
  const SnakeRules& rules = snake.rules();
  const std::size_t stride = static_cast<std::size_t>(rules.width) + 2 * Snake::reach;
  const std::size_t width = static_cast<std::size_t>(rules.width) + 2;
  const std::size_t height = static_cast<std::size_t>(rules.height) + 2;
  const auto tiles = snake.field(field);
  const auto tile = [&](std::size_t y, std::size_t x) {
    // Where the rows are odd in number, the last one fills both halves.
    return tiles[(std::min(y, height - 1) + hidden) * stride + x + hidden];
  };
  const std::size_t shown = columns == 0 ? width : std::min(width, columns);
  const std::size_t pairs = (height + 1) / 2;
  std::string text;
  for (std::size_t line = 0; line < (lines == 0 ? pairs : std::min(pairs, lines)); ++line) {
    int top = -1;
    int bottom = -1;
    for (std::size_t x = 0; x < shown; ++x) {
      // A colour holds until the next one is named.
      if (tile(2 * line, x) != top) {
        top = tile(2 * line, x);
        text += std::string("\033[38;2;") + palette[static_cast<std::size_t>(top)] + "m";
      }
      if (tile(2 * line + 1, x) != bottom) {
        bottom = tile(2 * line + 1, x);
        text += std::string("\033[48;2;") + palette[static_cast<std::size_t>(bottom)] + "m";
      }
      text += upper_half;
    }
    text += "\033[0m\n";
  }
  return text;
}

}  // namespace torchship::snake

#pragma once

/// What a game looks like in a terminal.

#include "snake/snake.h"

#include <cstddef>
#include <string>

namespace torchship::snake {

/// A field as coloured half blocks, two rows of cells in one line, its walls one thick. Cropped to
/// `columns` cells and `lines` lines, of which 0 is any number. Every line ends with a new line.
std::string picture(const Snake& snake, int field, std::size_t columns, std::size_t lines);

}  // namespace torchship::snake

#include "screen.h"

#include "common.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

namespace torchship::app {
namespace {

// Tiles' colours, as `torchship play` has them: empty, food, corpse, wall, then the snakes.
constexpr std::array palette{"16;20;24",   "255;210;74", "122;92;88",   "58;66;76",
                             "79;179;255", "95;211;141", "255;122;107", "197;139;255"};
constexpr std::string_view upper_half = "\u2580";  // in the foreground's colour

constexpr std::string_view enter = "\033[?1049h\033[?25l";  // the other screen, no cursor
constexpr std::string_view leave = "\033[?25h\033[?1049l";
constexpr std::string_view home = "\033[H";
constexpr std::string_view clear_below = "\033[J";

volatile std::sig_atomic_t stop = 0;

void note(int) {
  stop = 1;
}

}  // namespace

bool is_terminal() {
  return ::isatty(STDOUT_FILENO) == 1;
}

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

Screen::Screen() {
  print(enter);
}

Screen::~Screen() {
  // Not print(): a destructor raises nothing.
  std::fwrite(leave.data(), 1, leave.size(), stdout);
  std::fflush(stdout);
}

void Screen::show(const Snake& snake, std::string_view text) const {
  struct winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1;
  const std::size_t columns = known ? size.ws_col : 0;
  const std::size_t lines = known ? size.ws_row - 1U : 0;
  print(std::string(home) + picture(snake, 0, columns, lines) +
        std::string(text.substr(0, columns == 0 ? text.npos : columns)) + std::string(clear_below));
}

StopSignals::StopSignals() {
  struct sigaction action{};
  action.sa_handler = note;  // without SA_RESTART: a sleep shall end
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &interrupt_);
  ::sigaction(SIGTERM, &action, &terminate_);
}

StopSignals::~StopSignals() {
  ::sigaction(SIGINT, &interrupt_, nullptr);
  ::sigaction(SIGTERM, &terminate_, nullptr);
}

bool StopSignals::came() {
  return stop != 0;
}

void sleep_until(std::chrono::steady_clock::time_point then) {
  using std::chrono::duration_cast;
  const auto since = then.time_since_epoch();
  const auto seconds = duration_cast<std::chrono::seconds>(since);
  const auto rest = duration_cast<std::chrono::nanoseconds>(since - seconds);
  const timespec time{static_cast<time_t>(seconds.count()), static_cast<long>(rest.count())};
  // The steady clock is CLOCK_MONOTONIC; std::this_thread::sleep_until would sleep on after a
  // signal.
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
}

}  // namespace torchship::app

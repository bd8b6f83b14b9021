#include "snake/screen.h"

#include <torchship/error.h>

#include "app/output.h"
#include "snake/picture.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

namespace torchship::snake {
namespace {

using app::output_descriptor;
using app::print;

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
  return ::isatty(output_descriptor()) == 1;
}

Screen::Screen() {
  print(enter);
}

Screen::~Screen() {
  try {
    print(leave);
  } catch (const WriteError&) {
    // A destructor must not throw.
  }
}

void Screen::show(const Snake& snake, std::string_view text) const {
  struct winsize size{};
  const bool known = ::ioctl(output_descriptor(), TIOCGWINSZ, &size) == 0 && size.ws_row > 1;
  const std::size_t columns = known ? size.ws_col : 0;
  const std::size_t lines = known ? size.ws_row - 1U : 0;
  print(std::string(home) + picture(snake, 0, columns, lines) +
        std::string(text.substr(0, columns == 0 ? text.npos : columns)) + std::string(clear_below));
}

StopSignals::StopSignals() {
  struct sigaction action{};
  action.sa_handler = note;  // without SA_RESTART, so that a signal ends a sleep
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

}  // namespace torchship::snake

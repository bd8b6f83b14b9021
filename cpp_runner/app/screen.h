#pragma once

/// A game in the terminal. The program is single-threaded outside LibTorch.

#include "snake.h"

#include <chrono>
#include <csignal>
#include <string>
#include <string_view>

namespace torchship::app {

/// Whether standard output is a terminal.
bool is_terminal();

/// The terminal's other screen, for the length of an object; then it looks as it did before.
class Screen {
 public:
  Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen();

  /// Shows the first field, and a line of text below it.
  void show(const Snake& snake, std::string_view text) const;
};

/// Makes SIGINT and SIGTERM a wish, for the length of an object.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  /// Whether one of them came since the program started.
  static bool came();

 private:
  struct sigaction interrupt_{};
  struct sigaction terminate_{};
};

/// Sleeps until then; a signal ends the sleep.
void sleep_until(std::chrono::steady_clock::time_point then);

}  // namespace torchship::app

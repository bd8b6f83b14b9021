#pragma once

/// A game in the terminal. The program is single-threaded outside LibTorch.

#include "snake/snake.h"

#include <chrono>
#include <csignal>
#include <string>
#include <string_view>

namespace torchship::snake {

/// Whether standard output is a terminal.
bool is_terminal();

/// While it lives, the terminal shows its alternate screen; then it looks as it did before.
class Screen {
 public:
  Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen();

  /// Shows the first field, and a line of text below it.
  void show(const Snake& snake, std::string_view text) const;
};

/// While it lives, SIGINT and SIGTERM do not end the process: they are noted.
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

/// Sleeps until that time, or until a signal arrives.
void sleep_until(std::chrono::steady_clock::time_point then);

}  // namespace torchship::snake

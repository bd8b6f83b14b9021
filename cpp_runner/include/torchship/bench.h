#pragma once

/// Measures how long one call takes, and how long LibTorch takes for the same call without this
/// library (the floor).

#include <torchship/hide_macros.h>

#include <torchship/archive.h>
#include <torchship/native.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace torchship {

/// What to measure: every batch size with every thread count.
struct BenchOptions {
  std::string method = "forward";
  std::vector<std::int64_t> batches{1};      // sizes of the symbol `batch`, in rows
  std::vector<int> threads{1};               // inside an operator
  double seconds = 1.0;                      // of measuring for each pair, the floor included
  int rounds = 20;                           // into which the seconds are divided; at least 1
  bool step = false;                         // call Session::step(), which keeps state, not run()
  std::optional<NativeLibrary> native = {};  // the compiled archive, to be measured too
};

/// Times of single calls in microseconds; percentiles by nearest rank.
struct Latency {
  std::size_t calls = 0;
  double p50_us = 0;
  double p90_us = 0;
  double p99_us = 0;
  double max_us = 0;
  double rows_per_s = 0;  // rows of all calls, divided by their total time
};

/// The quartiles of a figure that is measured once in each round.
struct Spread {
  double low = 0;  // the first quartile
  double median = 0;
  double high = 0;  // the third quartile
};

/// The times of the compiled archive, measured in the same rounds as the session.
struct NativeTimes {
  Latency session = {};       // NativeSession::run() or step(), on one thread
  Spread p50_us = {};         // over the rounds: the median of its calls
  Spread times_as_fast = {};  // over the rounds: the median of the session's calls divided by it
};

/// The times of one pair of batch size and thread count.
struct BenchResult {
  std::string method;
  std::int64_t batch = 1;
  int threads = 1;
  std::size_t warm_up_calls = 0;  // not counted: TorchScript optimises its graph in them
  double first_us = 0;            // the first of the warm-up calls
  Latency session = {};           // Session::run() or step(): named tensors in and out, checked
  Latency floor = {};             // `module.forward(arguments)` in a bare loop
  Spread p50_us = {};             // over the rounds: the median of the session's calls
  Spread difference_us = {};      // over the rounds: that median minus the floor's
  std::optional<NativeTimes> native = {};  // if there is a compiled archive
};

/// Times every pair of batch size and thread count, after a warm-up. Every round measures both the
/// session and the floor, so that a disturbance on the machine affects both. The inputs are those
/// of the method's first golden case with at least one row, repeated or cut to the batch size.
/// Changes the thread count of the process. Raises UsageError if the method does not exist, has no
/// such golden case, has no dimension `batch` and is to run with more than one row, or has no state
/// and `step` is asked for.
std::vector<BenchResult> bench(const Archive& archive, const BenchOptions& options);

}  // namespace torchship

#include <torchship/restore_macros.h>

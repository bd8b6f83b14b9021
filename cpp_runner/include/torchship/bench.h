#pragma once

/// How long one call takes, beside the floor: the same module called without this library.

#include <torchship/hide_macros.h>

#include <torchship/archive.h>

#include <cstdint>
#include <string>
#include <vector>

namespace torchship {

struct BenchOptions {
  std::string method = "forward";
  std::vector<std::int64_t> batches{1};  // sizes of the symbol `batch`
  std::vector<int> threads{1};           // inside an operator
  double seconds = 1.0;                  // of measuring, floor included, for each pair
  int rounds = 20;                       // the seconds are cut into; at least 1
  bool step = false;                     // Session::step(), its state inside, instead of run()
};

/// Times of single calls in microseconds; percentiles by nearest rank.
struct Latency {
  std::size_t calls = 0;
  double p50_us = 0;
  double p90_us = 0;
  double p99_us = 0;
  double max_us = 0;
  double rows_per_s = 0;  // rows of all calls by the time of all calls
};

/// The middle and the quartiles of one figure that each round gives.
struct Spread {
  double low = 0;
  double median = 0;
  double high = 0;
};

struct BenchResult {
  std::string method;
  std::int64_t batch = 1;
  int threads = 1;
  std::size_t warm_up_calls = 0;  // not counted; TorchScript specialises its graph in them
  double first_us = 0;            // the very first of them
  Latency session = {};           // Session::run() or step(): named tensors in and out, checked
  Latency floor = {};             // `module.forward(arguments)` in a bare loop
  Spread p50_us = {};             // over the rounds: the median of the session's calls
  Spread difference_us = {};      // over the rounds: that median less the floor's of the same round
};

/// Times every pair of batch size and thread count, after a warm-up. Every round measures the
/// session and the floor in turn, so that a noisy moment of the machine hits both. The inputs are
/// those of the method's first golden case that is not empty along `batch`, repeated or cut along
/// it. Changes the process's thread count. Raises UsageError where the method has no such golden
/// case, no `batch` to vary, or, for `step`, no state.
std::vector<BenchResult> bench(const Archive& archive, const BenchOptions& options);

}  // namespace torchship

#include <torchship/restore_macros.h>

#pragma once

/// How long one call takes.

#include <torchship/archive.h>

#include <cstdint>
#include <string>
#include <vector>

namespace torchship {

struct BenchOptions {
  std::string method = "forward";
  std::vector<std::int64_t> batches{1};  // sizes of the symbol `batch`
  std::vector<int> threads{1};           // inside an operator
  double seconds = 1.0;                  // of measuring, for each pair
};

/// Latencies are of one call in microseconds, percentiles by nearest rank.
struct BenchResult {
  std::string method;
  std::int64_t batch = 1;
  int threads = 1;
  double p50_us = 0;
  double p90_us = 0;
  double p99_us = 0;
  double rows_per_s = 0;
};

/// Times every pair of batch size and thread count, after a warm-up. The inputs are those of the
/// method's first golden case that is not empty along `batch`, repeated or cut along it. Changes
/// the process's thread count. Raises UsageError where the method has no such golden case, or no
/// `batch` to vary.
std::vector<BenchResult> bench(const Archive& archive, const BenchOptions& options);

}  // namespace torchship

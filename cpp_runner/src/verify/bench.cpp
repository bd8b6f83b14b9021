#include <torchship/bench.h>
#include <torchship/error.h>
#include <torchship/runtime.h>
#include <torchship/session.h>

#include "call/call.h"
#include "runtime/printing.h"
#include "verify/bench_inputs.h"

#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace torchship {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t warm_up_calls = 10;  // the profiling executor settles after its second call
constexpr double warm_up_share = 0.2;

/// Calls until both the count and the time are reached; microseconds of each call. The clock is
/// read once a call: it costs some 30 ns.
template <typename Action>
std::vector<double> times_of(const Action& action, std::size_t calls, double seconds) {
  std::vector<double> times;
  const Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                   std::chrono::duration<double>(seconds));
  Clock::time_point before = Clock::now();
  while (times.size() < calls || before < end) {
    action();
    const Clock::time_point after = Clock::now();
    times.push_back(std::chrono::duration<double, std::micro>(after - before).count());
    before = after;
  }
  return times;
}

double percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return percentile(values, 0.5);
}

Latency latency(std::vector<double> times, std::int64_t batch) {
  double total = 0;
  for (const double time : times) total += time;
  std::ranges::sort(times);
  const double rows = static_cast<double>(batch) * static_cast<double>(times.size());
  return {.calls = times.size(),
          .p50_us = percentile(times, 0.5),
          .p90_us = percentile(times, 0.9),
          .p99_us = percentile(times, 0.99),
          .max_us = times.back(),
          .rows_per_s = rows / (total * 1e-6)};
}

Spread spread(std::vector<double> values) {
  std::ranges::sort(values);
  return {.low = percentile(values, 0.25),
          .median = percentile(values, 0.5),
          .high = percentile(values, 0.75)};
}

TensorMap without_state(const Method& method, TensorMap inputs) {
  for (const State& state : method.state) inputs.erase(state.input);
  return inputs;
}

/// Measures `ours` and `bare` in turn, the order changing from round to round.
template <typename Ours, typename Bare>
void measure(const Ours& ours, const Bare& bare, const BenchOptions& options, BenchResult& result) {
  const double warm_up = options.seconds * warm_up_share / 2;
  const std::vector<double> first = times_of(ours, warm_up_calls, warm_up);
  result.first_us = first.front();
  result.warm_up_calls = first.size() + times_of(bare, warm_up_calls, warm_up).size();

  const double share = options.seconds / (2.0 * options.rounds);
  std::vector<double> session_times;
  std::vector<double> floor_times;
  std::vector<double> medians;
  std::vector<double> differences;
  for (int round = 0; round < options.rounds; ++round) {
    std::vector<double> session;
    std::vector<double> floor;
    if (round % 2 == 0) session = times_of(ours, 1, share);
    floor = times_of(bare, 1, share);
    if (round % 2 != 0) session = times_of(ours, 1, share);
    medians.push_back(median(session));
    differences.push_back(medians.back() - median(floor));
    session_times.insert(session_times.end(), session.begin(), session.end());
    floor_times.insert(floor_times.end(), floor.begin(), floor.end());
  }
  result.session = latency(std::move(session_times), result.batch);
  result.floor = latency(std::move(floor_times), result.batch);
  result.p50_us = spread(std::move(medians));
  result.difference_us = spread(std::move(differences));
}

}  // namespace

std::vector<BenchResult> bench(const Archive& archive, const BenchOptions& options) {
  if (options.rounds < 1) {
    throw UsageError("rounds: expected 1 or more, got " + std::to_string(options.rounds));
  }
  Session session(archive, options.method);
  const Method& method = session.method();
  if (options.step && method.state.empty()) {
    throw UsageError("method '" + method.name + "' carries no state from step to step");
  }
  const TensorMap& golden = golden_inputs(archive, method);
  const auto module = archive.module();
  const Call call(archive.name(), module, method, c10::Device(archive.options().device));
  const Printing printing(
      printing_as(archive.name()));  // for the bare loop; a session does it by itself
  std::vector<BenchResult> results;
  for (const int threads : options.threads) {
    configure_runtime(threads, archive.options().fusion);
    for (const std::int64_t batch : options.batches) {
      BenchResult result{.method = options.method, .batch = batch, .threads = threads};
      const TensorMap inputs = with_batch(method, golden, batch);
      const TensorMap stepped = without_state(method, inputs);
      const c10::InferenceMode inference;  // for the bare loop, likewise
      const std::vector<c10::IValue> arguments = call.arguments(inputs);
      const auto bare = [&] {
        static_cast<void>(module->get_method(options.method)(arguments));  // = module.forward(...)
      };
      session.reset();
      if (options.step) {
        measure([&] { static_cast<void>(session.step(stepped)); }, bare, options, result);
      } else {
        measure([&] { static_cast<void>(session.run(inputs)); }, bare, options, result);
      }
      results.push_back(std::move(result));
    }
  }
  return results;
}

}  // namespace torchship

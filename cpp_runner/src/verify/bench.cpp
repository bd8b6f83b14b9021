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
#include <functional>
#include <iterator>

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

/// Calls that are measured, and the times of all rounds.
struct Measured {
  std::function<void()> call;
  std::vector<double> times = {};
  std::vector<double> medians = {};  // by round
};

/// Measures all in turn, the order changing from round to round.
void measure_rounds(const std::vector<Measured*>& all, const BenchOptions& options) {
  const double share = options.seconds / (static_cast<double>(all.size()) * options.rounds);
  std::vector<Measured*> order = all;
  for (int round = 0; round < options.rounds; ++round) {
    for (Measured* one : order) {
      const std::vector<double> times = times_of(one->call, 1, share);
      one->medians.push_back(median(times));
      one->times.insert(one->times.end(), times.begin(), times.end());
    }
    std::ranges::reverse(order);
  }
}

/// How two compare, over the rounds.
template <typename Operation>
Spread over_rounds(const Measured& a, const Measured& b, const Operation& operation) {
  std::vector<double> values;
  std::ranges::transform(a.medians, b.medians, std::back_inserter(values), operation);
  return spread(std::move(values));
}

/// Measures the session's calls, those of the bare loop, and, if there are any, those of the
/// compiled archive.
void measure(Measured ours, Measured bare, Measured native, const BenchOptions& options,
             BenchResult& result) {
  std::vector<Measured*> all{&ours, &bare};
  if (native.call) all.push_back(&native);
  const double warm_up = options.seconds * warm_up_share / static_cast<double>(all.size());
  for (const Measured* one : all) {
    const std::vector<double> times = times_of(one->call, warm_up_calls, warm_up);
    if (one == &ours) result.first_us = times.front();
    result.warm_up_calls += times.size();
  }
  measure_rounds(all, options);
  result.difference_us = over_rounds(ours, bare, std::minus());
  if (native.call) {
    result.native.emplace();
    result.native->times_as_fast = over_rounds(ours, native, std::divides());
    result.native->p50_us = spread(std::move(native.medians));
    result.native->session = latency(std::move(native.times), result.batch);
  }
  result.p50_us = spread(std::move(ours.medians));
  result.session = latency(std::move(ours.times), result.batch);
  result.floor = latency(std::move(bare.times), result.batch);
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
  std::optional<NativeSession> native;
  if (options.native) native.emplace(*options.native, options.method);
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
      if (native) native->reset();
      const auto calls_of = [&](auto& of) -> std::function<void()> {
        if (options.step) return [&] { static_cast<void>(of.step(stepped)); };
        return [&] { static_cast<void>(of.run(inputs)); };
      };
      measure({.call = calls_of(session)}, {.call = bare},
              {.call = native ? calls_of(*native) : nullptr}, options, result);
      results.push_back(std::move(result));
    }
  }
  return results;
}

}  // namespace torchship

#include <torchship/bench.h>
#include <torchship/error.h>
#include <torchship/runtime.h>
#include <torchship/session.h>

#include "input_check.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace torchship {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int warm_up_calls = 10;  // the profiling executor settles after its second call
constexpr double warm_up_share = 0.2;
constexpr std::string_view batch_symbol = "batch";

/// Every dimension `batch` of these inputs, as an input's name and the dimension's index.
std::vector<std::pair<std::string, std::int64_t>> batch_dimensions(const Method& method,
                                                                   const TensorMap& inputs) {
  std::vector<std::pair<std::string, std::int64_t>> found;
  for (const auto& [name, tensor] : inputs) {
    const Node* leaf = find_input(method, name);
    if (leaf == nullptr || !leaf->shape) continue;
    for (std::size_t i = 0; i < leaf->shape->size(); ++i) {
      const auto* symbol = std::get_if<std::string>(&(*leaf->shape)[i]);
      const auto dimension = static_cast<std::int64_t>(i);
      if (symbol != nullptr && *symbol == batch_symbol && dimension < tensor.dim()) {
        found.emplace_back(name, dimension);
      }
    }
  }
  return found;
}

/// The inputs of the method's first golden case that has rows to repeat.
const TensorMap& golden_inputs(const Archive& archive, const Method& method) {
  const Manifest* manifest = archive.manifest();
  bool any = false;
  for (std::size_t i = 0; manifest != nullptr && i < manifest->golden.size(); ++i) {
    if (manifest->golden[i].method != method.name) continue;
    any = true;
    const TensorMap& inputs = archive.golden()[i].front().inputs;
    const auto empty = [&inputs](const auto& place) {
      return inputs.at(place.first).size(place.second) == 0;
    };
    if (std::ranges::none_of(batch_dimensions(method, inputs), empty)) return inputs;
  }
  if (any) {
    throw UsageError("model '" + archive.name() + "': every golden case of method '" + method.name +
                     "' is empty along 'batch', so there is nothing to repeat");
  }
  throw UsageError("model '" + archive.name() + "' has no golden case of method '" + method.name +
                   "' to take inputs from");
}

/// Repeats or cuts a dimension to `size`.
at::Tensor resized(const at::Tensor& tensor, std::int64_t dimension, std::int64_t size) {
  const at::Tensor rows =
      at::arange(size, at::TensorOptions(at::kLong)).remainder(tensor.size(dimension));
  return tensor.index_select(dimension, rows).contiguous();
}

/// The inputs with every `batch` of the given size; nothing if no input has one.
std::optional<TensorMap> with_batch(const Method& method, const TensorMap& inputs,
                                    std::int64_t size) {
  const auto dimensions = batch_dimensions(method, inputs);
  if (dimensions.empty()) return std::nullopt;
  TensorMap result = inputs;
  for (const auto& [name, dimension] : dimensions) {
    at::Tensor& tensor = result.at(name);
    tensor = resized(tensor, dimension, size);
  }
  return result;
}

/// Calls until both the count and the time are reached; microseconds of each call.
std::vector<double> measure(const Session& session, const TensorMap& inputs, int calls,
                            double seconds) {
  std::vector<double> times;
  const Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                   std::chrono::duration<double>(seconds));
  Clock::time_point before = Clock::now();
  while (static_cast<int>(times.size()) < calls || before < end) {
    static_cast<void>(session.run(inputs));
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

}  // namespace

std::vector<BenchResult> bench(const Archive& archive, const BenchOptions& options) {
  const Session session(archive, options.method);
  const TensorMap& golden = golden_inputs(archive, session.method());
  std::vector<BenchResult> results;
  for (const int threads : options.threads) {
    configure_runtime(threads);
    for (const std::int64_t batch : options.batches) {
      const auto inputs = with_batch(session.method(), golden, batch);
      if (!inputs && batch != 1) {
        throw UsageError("method '" + options.method + "' has no dimension 'batch' to set to " +
                         std::to_string(batch));
      }
      const TensorMap& used = inputs ? *inputs : golden;
      measure(session, used, warm_up_calls, options.seconds * warm_up_share);
      std::vector<double> times = measure(session, used, 1, options.seconds);
      double total = 0;
      for (const double time : times) total += time;
      const double rows = static_cast<double>(batch) * static_cast<double>(times.size());
      std::ranges::sort(times);
      results.push_back({.method = options.method,
                         .batch = batch,
                         .threads = threads,
                         .p50_us = percentile(times, 0.5),
                         .p90_us = percentile(times, 0.9),
                         .p99_us = percentile(times, 0.99),
                         .rows_per_s = rows / (total * 1e-6)});
    }
  }
  return results;
}

}  // namespace torchship

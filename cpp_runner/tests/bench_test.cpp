#include <torchship/bench.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include "support.h"

#include <ATen/ops/zeros.h>

namespace torchship::bench_test {
namespace {

using namespace torchship::testing;

TEST(bench, every_pair_of_batch_and_threads) {
  const Archive archive(artefact("fizzbuzz.pt"));
  const auto results =
      bench(archive, {.batches = {1, 3}, .threads = {1, 2}, .seconds = 0.01, .rounds = 4});
  ASSERT_EQ(results.size(), 4U);
  EXPECT_EQ(results[1].batch, 3);
  EXPECT_EQ(results[2].threads, 2);
  for (const BenchResult& result : results) {
    for (const Latency& latency : {result.session, result.floor}) {
      EXPECT_GE(latency.calls, 4U);  // at least one in each round
      EXPECT_GT(latency.p50_us, 0);
      EXPECT_LE(latency.p50_us, latency.p90_us);
      EXPECT_LE(latency.p90_us, latency.p99_us);
      EXPECT_LE(latency.p99_us, latency.max_us);
      // All calls together take at least as long as the slowest one.
      EXPECT_LE(latency.rows_per_s, 1e6 * static_cast<double>(result.batch) *
                                        static_cast<double>(latency.calls) / latency.max_us *
                                        1.000001);
    }
    EXPECT_GE(result.warm_up_calls, 20U);
    EXPECT_GT(result.first_us, 0);
    EXPECT_LE(result.p50_us.low, result.p50_us.median);
    EXPECT_LE(result.p50_us.median, result.p50_us.high);
    EXPECT_LE(result.difference_us.low, result.difference_us.median);
    EXPECT_LE(result.difference_us.median, result.difference_us.high);
    EXPECT_LT(result.difference_us.median, result.p50_us.high);
  }
}

TEST(bench, one_round_of_one_call) {
  const Archive archive(artefact("moba.pt"));
  const auto results = bench(archive, {.seconds = 0, .rounds = 1});
  const BenchResult& result = results.at(0);
  EXPECT_EQ(result.session.calls, 1U);
  EXPECT_EQ(result.floor.calls, 1U);
  EXPECT_EQ(result.session.p50_us, result.session.max_us);
  EXPECT_EQ(result.p50_us.median, result.session.p50_us);
  EXPECT_EQ(result.p50_us.low, result.p50_us.high);
  EXPECT_EQ(result.difference_us.median, result.session.p50_us - result.floor.p50_us);
  EXPECT_DOUBLE_EQ(result.floor.rows_per_s, 1e6 / result.floor.max_us);
}

TEST(bench, reports_as_many_calls_as_the_model_counted) {
  const Archive archive(artefact("drift.pt"));  // counts its calls, including those of the floor
  const auto results = bench(archive, {.seconds = 0, .rounds = 3});
  const BenchResult& result = results.at(0);
  const auto calls = result.warm_up_calls + result.session.calls + result.floor.calls;
  const at::Tensor next = Session(archive).run({{"x", at::zeros({1, 3})}}).at("y");
  EXPECT_EQ(next[0][0].item<float>(), static_cast<float>(calls + 1));
}

TEST(bench, steps_carry_state) {
  const Archive archive(artefact("moba.pt"));
  EXPECT_EQ(bench(archive, {.batches = {2, 3}, .seconds = 0, .step = true}).size(), 2U);
  const Archive stateless(artefact("tiny.pt"));
  EXPECT_TRUE(
      contains(message_of<UsageError>([&] { bench(stateless, {.seconds = 0, .step = true}); }),
               "method 'forward' carries no state"));
}

TEST(bench, state_is_resized_too) {
  const Archive archive(artefact("moba.pt"));
  EXPECT_EQ(bench(archive, {.method = "act", .batches = {5}, .seconds = 0}).size(), 1U);
}

TEST(bench, golden_cases_without_rows_are_skipped) {
  EXPECT_EQ(bench(Archive(artefact("empty_first.pt")), {.batches = {2}, .seconds = 0}).size(), 1U);
  const Archive empty(artefact("empty_only.pt"));
  EXPECT_TRUE(
      contains(message_of<UsageError>([&] { static_cast<void>(bench(empty, {.seconds = 0})); }),
               "every golden case of method 'forward' is empty along 'batch'"));
}

TEST(bench, refusals) {
  EXPECT_THROW(bench(Archive(artefact("plain.pt")), {}), UsageError);
  EXPECT_THROW(bench(Archive(artefact("tiny.pt")), {.method = "act"}), UsageError);
  const Archive odd(artefact("odd.pt"));  // without a dimension `batch`
  EXPECT_NO_THROW(bench(odd, {.seconds = 0}));
  EXPECT_THROW(bench(odd, {.seconds = 0, .rounds = 0}), UsageError);
  EXPECT_THROW(bench(odd, {.batches = {2}, .seconds = 0}), UsageError);
}

}  // namespace
}  // namespace torchship::bench_test

#include <torchship/bench.h>
#include <torchship/error.h>

#include "support.h"

namespace torchship {
namespace {

using namespace torchship::testing;

TEST(bench, every_pair_of_batch_and_threads) {
  const Archive archive(artefact("fizzbuzz.pt"));
  const auto results = bench(archive, {.batches = {1, 3}, .threads = {1, 2}, .seconds = 0.01});
  ASSERT_EQ(results.size(), 4U);
  EXPECT_EQ(results[1].batch, 3);
  EXPECT_EQ(results[2].threads, 2);
  for (const BenchResult& result : results) {
    EXPECT_GT(result.p50_us, 0);
    EXPECT_LE(result.p50_us, result.p90_us);
    EXPECT_LE(result.p90_us, result.p99_us);
    EXPECT_GT(result.rows_per_s, 0);
  }
}

TEST(bench, state_is_resized_too) {
  const Archive archive(artefact("moba.pt"));
  EXPECT_EQ(bench(archive, {.method = "act", .batches = {5}, .seconds = 0}).size(), 1U);
}

TEST(bench, golden_cases_without_rows_are_passed_over) {
  EXPECT_EQ(bench(Archive(artefact("empty_first.pt")), {.batches = {2}, .seconds = 0}).size(), 1U);
  const Archive empty(artefact("empty_only.pt"));
  EXPECT_TRUE(
      contains(message_of<UsageError>([&] { static_cast<void>(bench(empty, {.seconds = 0})); }),
               "every golden case of method 'forward' is empty along 'batch'"));
}

TEST(bench, what_cannot_be_timed) {
  EXPECT_THROW(bench(Archive(artefact("plain.pt")), {}), UsageError);
  EXPECT_THROW(bench(Archive(artefact("tiny.pt")), {.method = "act"}), UsageError);
  const Archive odd(artefact("odd.pt"));  // has no dimension `batch`
  EXPECT_NO_THROW(bench(odd, {.seconds = 0}));
  EXPECT_THROW(bench(odd, {.batches = {2}, .seconds = 0}), UsageError);
}

}  // namespace
}  // namespace torchship

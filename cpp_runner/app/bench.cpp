// torchship-runner bench

#include <torchship/bench.h>

#include "common.h"

#include <nlohmann/json.hpp>

#include <memory>

namespace torchship::app {
namespace {

struct Options {
  CommonOptions common;
  BenchOptions bench;
  bool json = false;
};

ExitCode run_bench(const Options& options) {
  const Archive archive = options.common.open();
  const auto results = bench(archive, options.bench);
  if (options.json) {
    nlohmann::ordered_json json;
    json["name"] = archive.name();
    json["results"] = nlohmann::ordered_json::array();
    for (const BenchResult& result : results) {
      json["results"].push_back({{"method", result.method},
                                 {"batch", result.batch},
                                 {"threads", result.threads},
                                 {"p50_us", result.p50_us},
                                 {"p90_us", result.p90_us},
                                 {"p99_us", result.p99_us},
                                 {"rows_per_s", result.rows_per_s}});
    }
    print(json.dump() + "\n");
    return ExitCode::agreed;
  }
  std::vector<std::vector<std::string>> rows{
      {"method", "batch", "threads", "p50 us", "p90 us", "p99 us", "rows/s"}};
  for (const BenchResult& result : results) {
    rows.push_back({result.method, std::to_string(result.batch), std::to_string(result.threads),
                    short_number(result.p50_us), short_number(result.p90_us),
                    short_number(result.p99_us), short_number(result.rows_per_s)});
  }
  print(table(rows));
  return ExitCode::agreed;
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      program.add_subcommand("bench", "Time a method for every pair of batch size and threads");
  options->common.add_to(*command, false);
  command->add_option("--method", options->bench.method, "The method to call")
      ->capture_default_str();
  command->add_option("--batch", options->bench.batches, "Batch sizes, comma-separated")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--threads", options->bench.threads, "Thread counts, comma-separated")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seconds", options->bench.seconds, "How long to measure each pair")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON for programs");
  command->footer("Example:\n  torchship-runner bench fizzbuzz.pt --batch 1,32 --threads 1,2");
  command->callback([&action, options] { action = [options] { return run_bench(*options); }; });
}

}  // namespace torchship::app

#include "bench.h"

#include <torchship/bench.h>
#include <torchship/runtime.h>

#include "output.h"
#include "text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>

namespace torchship::app {
namespace {

struct BenchCommand {
  CommonOptions common;
  BenchOptions bench;
  bool json = false;
};

using Json = nlohmann::ordered_json;

Json to_json(const Latency& latency) {
  return {{"calls", latency.calls},   {"p50_us", latency.p50_us},
          {"p90_us", latency.p90_us}, {"p99_us", latency.p99_us},
          {"max_us", latency.max_us}, {"rows_per_s", latency.rows_per_s}};
}

Json to_json(const Spread& spread) {
  return {{"low", spread.low}, {"median", spread.median}, {"high", spread.high}};
}

Json to_json(const RuntimeSettings& settings, const torchship::Options& options) {
  return {{"device", options.device},
          {"freeze", options.freeze},
          {"threads", settings.threads},
          {"interop_threads", settings.interop_threads},
          {"fusion", fusion_name(settings.fusion)},
          {"profiling_executor", settings.profiling_executor},
          {"onednn", settings.onednn},
          {"deterministic", settings.deterministic},
          {"float32_matmul", settings.float32_matmul},
          {"cudnn_tf32", settings.cudnn_tf32},
          {"foreign_blas", settings.foreign_blas}};
}

Json to_json(const BenchResult& result) {
  Json json{{"method", result.method}, {"batch", result.batch}, {"threads", result.threads}};
  json.update(to_json(result.session));
  json["warm_up_calls"] = result.warm_up_calls;
  json["first_us"] = result.first_us;
  json["p50_over_rounds_us"] = to_json(result.p50_us);
  json["floor"] = to_json(result.floor);
  json["difference_us"] = to_json(result.difference_us);
  if (result.native) {
    json["native"] = to_json(result.native->session);
    json["native"]["p50_over_rounds_us"] = to_json(result.native->p50_us);
    json["native"]["times_as_fast"] = to_json(result.native->times_as_fast);
  }
  return json;
}

/// `1.2 (1.1..1.4)`: the median, and the quartiles.
std::string to_text(const Spread& spread) {
  return short_number(spread.median) + " (" + short_number(spread.low) + ".." +
         short_number(spread.high) + ")";
}

ExitCode run_bench(const BenchCommand& options) {
  const Archive archive = options.common.open();
  BenchOptions wanted = options.bench;
  wanted.native = options.common.open_native(archive);
  const RuntimeSettings settings = runtime_settings();  // before the threads are varied
  const auto results = bench(archive, wanted);
  if (options.json) {
    Json json{{"name", archive.name()},
              {"call", options.bench.step ? "step" : "run"},
              {"rounds", options.bench.rounds},
              {"settings", to_json(settings, archive.options())},
              {"results", Json::array()}};
    for (const BenchResult& result : results) json["results"].push_back(to_json(result));
    print(json.dump() + "\n");
    return ExitCode::agreed;
  }
  std::vector<std::vector<std::string>> rows{{"method", "batch", "threads", "p50 us", "p90 us",
                                              "p99 us", "max us", "rows/s", "floor p50 us",
                                              "over the floor us", "first us"}};
  if (wanted.native) {
    for (const char* column :
         {"native p50 us", "native p99 us", "native rows/s", "times as fast"}) {
      rows.front().emplace_back(column);
    }
  }
  std::size_t warm_up = 0;
  for (const BenchResult& result : results) {
    rows.push_back({result.method, std::to_string(result.batch), std::to_string(result.threads),
                    to_text(result.p50_us), short_number(result.session.p90_us),
                    short_number(result.session.p99_us), short_number(result.session.max_us),
                    short_number(result.session.rows_per_s), short_number(result.floor.p50_us),
                    to_text(result.difference_us), short_number(result.first_us)});
    if (result.native) {
      for (const std::string& cell :
           {to_text(result.native->p50_us), short_number(result.native->session.p99_us),
            short_number(result.native->session.rows_per_s),
            to_text(result.native->times_as_fast)}) {
        rows.back().push_back(cell);
      }
    }
    warm_up = std::max(warm_up, result.warm_up_calls);
  }
  print(table(rows) + std::to_string(options.bench.rounds) +
        " rounds, median (and quartiles) of theirs; up to " + std::to_string(warm_up) +
        " calls of warm-up; floor: module." + options.bench.method + "() in a bare loop" +
        (wanted.native ? "; native: on one thread, in the same rounds\n" : "\n"));
  return ExitCode::agreed;
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  const auto options = std::make_shared<BenchCommand>();
  CLI::App* command =
      program.add_subcommand("bench", "Time a method for every pair of batch size and threads");
  options->common.add_to(*command, false);
  options->common.add_native_to(*command, "Time, in the same rounds,");
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
  command
      ->add_option("--seconds", options->bench.seconds,
                   "How long to measure each pair, the floor included")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command->add_option("--rounds", options->bench.rounds, "Into how many rounds to cut that time")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_flag("--step", options->bench.step,
                    "Time steps, the recurrent state carried inside, instead of single calls");
  command->add_flag("--json", options->json, "Print JSON for programs");
  command->footer(
      "Examples:\n"
      "  torchship-runner bench fizzbuzz.pt --batch 1,32 --threads 1,2\n"
      "  torchship-runner bench moba.pt --native moba.so --batch 1");
  command->callback([&action, options] { action = [options] { return run_bench(*options); }; });
}

}  // namespace torchship::app

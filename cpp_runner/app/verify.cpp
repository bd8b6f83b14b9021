#include "verify.h"

#include <torchship/verify.h>

#include "output.h"
#include "text.h"

#include <nlohmann/json.hpp>

#include <memory>

namespace torchship::app {
namespace {

using Json = nlohmann::ordered_json;

struct VerifyCommand {
  CommonOptions common;
  bool json = false;
  std::string outputs;
  int repeat = 3;
};

Json to_json(const Archive& archive, const VerifyReport& report) {
  Json results = Json::array();
  for (const OutputResult& result : report.results) {
    const Difference& difference = result.difference;
    results.push_back({{"case", result.case_index},
                       {"case_name", result.case_name},
                       {"method", result.method},
                       {"step", result.step},
                       {"output", result.output},
                       {"agreed", difference.agreed},
                       {"max_abs", finite_or_null(difference.max_abs)},
                       {"max_rel", finite_or_null(difference.max_rel)},
                       {"max_ulp", difference.max_ulp ? Json(*difference.max_ulp) : Json(nullptr)},
                       {"bit_identical", difference.bit_identical},
                       {"reason", difference.reason}});
  }
  return {{"name", archive.name()},
          {"version", archive.manifest()->version},
          {"agreed", report.agreed},
          {"note", report.note},
          {"results", std::move(results)}};
}

std::string to_text(const Archive& archive, const VerifyReport& report) {
  const auto number = [](const std::optional<double>& value) {
    return value ? short_number(*value) : std::string("-");
  };
  std::vector<std::vector<std::string>> rows{
      {"case", "method", "step", "output", "max abs", "max rel", "max ulp", "bits", "agreed"}};
  std::size_t mismatches = 0;
  for (const OutputResult& result : report.results) {
    const Difference& difference = result.difference;
    mismatches += difference.agreed ? 0 : 1;
    rows.push_back({result.case_name, result.method, std::to_string(result.step), result.output,
                    number(difference.max_abs), number(difference.max_rel),
                    difference.max_ulp ? std::to_string(*difference.max_ulp) : "-",
                    difference.bit_identical ? "identical" : "differ",
                    difference.agreed ? "yes" : "NO: " + difference.reason});
  }
  const std::string outputs = std::to_string(report.results.size()) + " outputs of " +
                              std::to_string(archive.golden().size()) + " golden cases";
  const std::string note = report.note.empty() ? "" : "note: " + report.note + "\n";
  return table(rows) + note + archive.name() + " " + archive.manifest()->version + ": " +
         (report.agreed ? "agreed, " + outputs
                        : "MISMATCH, " + std::to_string(mismatches) + " of " + outputs) +
         "\n";
}

ExitCode run_verify(const VerifyCommand& options) {
  const Archive archive = options.common.open();
  const auto native = options.common.open_native(archive);
  const VerifyReport report =
      native ? verify(archive, *native, options.repeat) : verify(archive, options.repeat);
  if (!options.outputs.empty()) write_tensors(options.outputs, report.actual);
  print(options.json ? to_json(archive, report).dump() + "\n" : to_text(archive, report));
  return report.agreed ? ExitCode::agreed : ExitCode::mismatch;
}

}  // namespace

void add_verify(CLI::App& program, Action& action) {
  const auto options = std::make_shared<VerifyCommand>();
  CLI::App* command = program.add_subcommand(
      "verify", "Run the golden cases and compare with what the eager module gave");
  options->common.add_to(*command);
  options->common.add_native_to(*command, "Verify, instead of the archive in LibTorch,");
  command->add_flag("--json", options->json, "Print JSON for programs");
  command->add_option("--outputs", options->outputs,
                      "Write every output as <case>/<step>/out/<output> to this .safetensors file");
  command
      ->add_option("--repeat", options->repeat,
                   "Runs of each case; the worst difference counts. TorchScript specialises its "
                   "graphs at the second")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->footer(
      "Examples:\n"
      "  torchship-runner verify fizzbuzz.pt\n"
      "  torchship-runner verify fizzbuzz.pt --json --outputs actual.safetensors\n"
      "  torchship-runner verify fizzbuzz.pt --native fizzbuzz.so");
  command->callback([&action, options] { action = [options] { return run_verify(*options); }; });
}

}  // namespace torchship::app

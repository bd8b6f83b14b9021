#include "inspect.h"

#include <torchship/session.h>

#include "base/join.h"
#include "base/parse_json.h"
#include "manifest/method_json.h"
#include "output.h"
#include "text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace torchship::app {
namespace {

using Json = nlohmann::ordered_json;

struct InspectCommand {
  CommonOptions common;
  bool json = false;
  bool code = false;
};

std::string state_text(const State& state) {
  return state.output + " -> " + state.input + ", starts " +
         (state.start == State::Start::zeros ? "as zeros" : "absent");
}

std::string digest_text(const Archive& archive) {
  if (archive.manifest() == nullptr)
    return "none: there is no manifest, and nothing vouches for it";
  return "ok: " + std::to_string(archive.records().size() - 1) +
         " records are as the manifest says";
}

std::string code_of(const Archive& archive) {
  std::string text;
  for (const Record& record : archive.records()) {
    if (!record.name.starts_with("code/") || !record.name.ends_with(".py")) continue;
    text += "# " + record.name + "\n" + archive.read_record(record.name) + "\n";
  }
  return text;
}

bool is_warning(const Json& value) {
  return value.is_object() && value.size() == 4 && value.contains("file") &&
         value["file"].is_string() && value.contains("line") && value["line"].is_number_integer() &&
         value.contains("code") && value["code"].is_string() && value.contains("message") &&
         value["message"].is_string();
}

/// What the tracer warned of and the archive's maker passed over: docs/archive.md.
Json trace_warnings(const Archive& archive) {
  constexpr std::string_view name = "extra/torchship/trace_warnings.json";
  const bool there = archive.manifest() != nullptr &&
                     std::ranges::any_of(archive.records(),
                                         [&](const Record& record) { return record.name == name; });
  if (!there) return Json::array();
  Json warnings;
  try {
    warnings = parse_json(archive.read_record(name));
  } catch (const std::invalid_argument& error) {
    throw ArchiveError(std::string("the record of a trace's warnings is no JSON: ") + error.what());
  }
  if (!warnings.is_array() || !std::ranges::all_of(warnings, is_warning)) {
    throw ArchiveError(
        "the record of a trace's warnings: expected a list of objects with file, line, code and "
        "message");
  }
  return warnings;
}

std::string warning_text(const Json& warning) {
  return warning["file"].get<std::string>() + ":" + warning["line"].dump() + " (`" +
         warning["code"].get<std::string>() + "`): " + warning["message"].get<std::string>();
}

Json with_signature_line(const Method& method) {
  Json json = method_json(method);
  json["signature"] = signature_line(method);
  return json;
}

Json to_json(const Archive& archive, bool with_code) {
  Json json{{"name", archive.name()},
            {"vouched", archive.manifest() != nullptr},
            {"signature_checked", archive.signature_checked()},
            {"bytes", archive.file_size()}};
  if (const Manifest* manifest = archive.manifest()) {
    json["format"] = manifest->format;
    json["version"] = manifest->version;
    json["description"] = manifest->description;
    json["source"] = {
        {"factory", manifest->source.factory},
        {"git_commit",
         manifest->source.git_commit ? Json(*manifest->source.git_commit) : Json(nullptr)},
        {"compiled", manifest->source.compiled}};
    json["torch"] = manifest->torch;
    json["mode"] = manifest->mode;
    json["parameters"] = manifest->parameters;
    json["golden"] = Json::array();
    for (const GoldenCase& golden : manifest->golden) {
      json["golden"].push_back(
          {{"name", golden.name}, {"method", golden.method}, {"steps", golden.steps}});
    }
    json["labels"] = Json::object();
    for (const auto& [output, labels] : manifest->labels) json["labels"][output] = labels;
    json["metrics"] = Json::object();
    for (const auto& [name, value] : manifest->metrics) json["metrics"][name] = value;
    json["custom_ops"] = nlohmann::ordered_json::array();
    for (const CustomOperator& op : manifest->custom_ops) {
      json["custom_ops"].push_back({{"name", op.name}, {"library", op.library}});
    }
  }
  json["trace_warnings"] = trace_warnings(archive);
  json["methods"] = Json::array();
  const Methods methods = methods_of(archive);
  for (const Method& method : methods.callable)
    json["methods"].push_back(with_signature_line(method));
  json["not_callable"] = methods.not_callable;
  json["records"] = Json::array();
  for (const Record& record : archive.records()) {
    json["records"].push_back(
        {{"name", record.name}, {"bytes", record.size}, {"sha256", record.sha256}});
  }
  if (with_code) json["code"] = code_of(archive);
  return json;
}

/// What the factory returned compiled, of which no eager code was seen.
std::string compiled_text(const std::vector<std::string>& names) {
  const auto text = [](const std::string& name) {
    return name.empty() ? "the whole module" : name;
  };
  return join(names, ", ", text) + ": no eager code vouches for the golden outputs of it";
}

std::string to_text(const Archive& archive) {
  std::vector<std::vector<std::string>> rows;
  const Manifest* manifest = archive.manifest();
  rows.push_back({"name", archive.name()});
  if (manifest != nullptr) {
    rows.push_back({"version", manifest->version});
    if (!manifest->description.empty()) rows.push_back({"description", manifest->description});
    rows.push_back(
        {"source", manifest->source.factory + " " + manifest->source.kwargs +
                       (manifest->source.git_commit ? " at " + *manifest->source.git_commit
                                                    : ", no git commit")});
    if (!manifest->source.compiled.empty()) {
      rows.push_back({"compiled before", compiled_text(manifest->source.compiled)});
    }
    rows.push_back({"torch", manifest->torch + ", " + manifest->mode});
    rows.push_back({"parameters", std::to_string(manifest->parameters)});
  }
  const Methods methods = methods_of(archive);
  for (const Method& method : methods.callable) {
    rows.push_back({"method", signature_line(method)});
    for (const State& state : method.state) rows.push_back({"  state", state_text(state)});
  }
  for (const std::string& name : methods.not_callable) {
    rows.push_back({"method", name + ": cannot be called from files"});
  }
  if (manifest != nullptr) {
    for (const GoldenCase& golden : manifest->golden) {
      rows.push_back({"golden case", "'" + golden.name + "', " + golden.method + ", " +
                                         std::to_string(golden.steps) +
                                         (golden.steps == 1 ? " step" : " steps")});
    }
    for (const auto& [output, labels] : manifest->labels) {
      std::string text = output + ":";
      for (const std::string& label : labels) text += " " + label;
      rows.push_back({"labels", text});
    }
    for (const auto& [name, value] : manifest->metrics) {
      rows.push_back({"metric", name + " " + short_number(value)});
    }
    for (const CustomOperator& op : manifest->custom_ops) {
      rows.push_back({"custom operator", op.name + ", of " + op.library});
    }
  }
  for (const Json& warning : trace_warnings(archive)) {
    rows.push_back({"trace warning", warning_text(warning)});
  }
  rows.push_back({"size", std::to_string(archive.file_size()) + " bytes, " +
                              std::to_string(archive.records().size()) + " records"});
  rows.push_back({"digests", digest_text(archive)});
  rows.push_back(
      {"signature", archive.signature_checked() ? "ok: of a trusted key" : "not checked"});
  return table(rows);
}

ExitCode inspect(const InspectCommand& options) {
  const Archive archive = options.common.open();
  if (options.json) {
    print(to_json(archive, options.code).dump(2) + "\n");
  } else {
    print(to_text(archive) + (options.code ? "\n" + code_of(archive) : ""));
  }
  return ExitCode::agreed;
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  const auto options = std::make_shared<InspectCommand>();
  CLI::App* command = program.add_subcommand(
      "inspect", "Tell what an archive says of itself, after checking its digests");
  options->common.add_to(*command, false);
  command->add_flag("--json", options->json, "Print JSON for programs");
  command->add_flag("--code", options->code, "Print the TorchScript code too");
  command->footer(
      "Examples:\n"
      "  torchship-runner inspect fizzbuzz.pt\n"
      "  torchship-runner inspect fizzbuzz.pt --json --trusted-keys keys.pem");
  command->callback([&action, options] { action = [options] { return inspect(*options); }; });
}

}  // namespace torchship::app

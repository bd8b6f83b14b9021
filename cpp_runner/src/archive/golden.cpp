#include "archive/golden.h"

#include <torchship/error.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

namespace torchship {
namespace {

[[noreturn]] void fail(std::string_view name, const std::string& message) {
  throw ArchiveError("the golden tensor '" + std::string(name) + "': " + message);
}

/// Takes the text up to the next slash off `rest`.
std::string_view take(std::string_view& rest) {
  const auto end = std::min(rest.find('/'), rest.size());
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return part;
}

std::size_t index(std::string_view name, std::string_view text, std::size_t limit,
                  const char* what) {
  std::size_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size() || value >= limit) {
    fail(name, "the manifest has no such " + std::string(what));
  }
  return value;
}

/// The names of one side of a method. A golden record may have very many tensors, and so may a
/// signature: names without a star are not looked for one by one.
class LeafNames {
 public:
  void add(const Node& node) {
    for (const Node* leaf : leaves(node)) {
      if (leaf->name.find('*') == std::string::npos) {
        plain_.insert(leaf->name);
      } else {
        patterns_.push_back(leaf->name);
      }
    }
  }

  bool contains(std::string_view name) const {
    return plain_.contains(name) ||
           std::ranges::any_of(patterns_, [name](std::string_view p) { return matches(p, name); });
  }

 private:
  std::set<std::string_view> plain_;
  std::vector<std::string_view> patterns_;
};

struct Sides {
  explicit Sides(const Method& method) {
    for (const Argument& argument : method.inputs) inputs.add(argument.value);
    for (const State& carried : method.state) state.insert(carried.input);
    outputs.add(method.outputs);
  }

  LeafNames inputs;
  std::set<std::string_view> state;
  LeafNames outputs;
};

}  // namespace

std::vector<std::vector<GoldenStep>> parse_golden_cases(const Manifest& manifest,
                                                        std::string_view bytes) {
  TensorMap tensors;
  try {
    tensors = read_safetensors(bytes);
  } catch (const InputError& error) {
    throw ArchiveError(std::string("the golden cases are damaged: ") + error.what());
  }
  std::vector<std::vector<GoldenStep>> cases(manifest.golden.size());
  for (const GoldenCase& golden : manifest.golden) {
    // Before memory is asked for: each step has an output.
    if (static_cast<std::size_t>(golden.steps) > tensors.size()) {
      throw ArchiveError("golden case '" + golden.name + "' has " + std::to_string(golden.steps) +
                         " steps, and there are only " + std::to_string(tensors.size()) +
                         " golden tensors: it lacks outputs");
    }
  }
  std::map<std::string_view, Sides> methods;
  for (const Method& method : manifest.methods) methods.emplace(method.name, method);
  for (auto& [name, tensor] : tensors) {
    std::string_view rest = name;
    const std::size_t number = index(name, take(rest), cases.size(), "case");
    const GoldenCase& golden = manifest.golden[number];
    const Sides& method = methods.at(golden.method);
    const std::size_t step =
        index(name, take(rest), static_cast<std::size_t>(golden.steps), "step");
    const std::string_view side = take(rest);
    auto& steps = cases[number];
    if (step >= steps.size()) steps.resize(step + 1);
    if (side == "in") {
      if (!method.inputs.contains(rest)) {
        fail(name, "method '" + golden.method + "' has no such input");
      }
      if (step > 0 && method.state.contains(rest)) {
        fail(name, "only step 0 may hold state; later steps carry their own");
      }
      steps[step].inputs.emplace(rest, std::move(tensor));
    } else if (side == "out") {
      if (!method.outputs.contains(rest)) {
        fail(name, "method '" + golden.method + "' has no such output");
      }
      steps[step].outputs.emplace(rest, std::move(tensor));
    } else {
      fail(name, "expected '<case>/<step>/in/<input>' or '<case>/<step>/out/<output>'");
    }
  }
  for (std::size_t number = 0; number < cases.size(); ++number) {
    const auto steps = static_cast<std::size_t>(manifest.golden[number].steps);
    const bool complete =
        cases[number].size() == steps &&
        std::ranges::none_of(cases[number], [](const GoldenStep& s) { return s.outputs.empty(); });
    if (!complete) {
      throw ArchiveError("golden case " + std::to_string(number) + " ('" +
                         manifest.golden[number].name + "') lacks outputs for some of its " +
                         std::to_string(steps) + " steps");
    }
  }
  return cases;
}

}  // namespace torchship

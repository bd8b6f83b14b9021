#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/session.h>
#include <torchship/verify.h>

#include "base/floating_point.h"
#include "io/plain_tensor.h"
#include "runtime/blas.h"
#include "verify/compare_elements.h"
#include "verify/error_bound.h"
#include "verify/float64_outputs.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>

namespace torchship {
namespace {

void worsen(std::optional<double>& worst, const std::optional<double>& other) {
  worst = worst && other ? std::optional(std::max(*worst, *other)) : std::nullopt;
}

/// Keeps the worst of both.
void worsen(Difference& worst, const Difference& other) {
  worst.agreed = worst.agreed && other.agreed;
  worst.bit_identical = worst.bit_identical && other.bit_identical;
  worsen(worst.max_abs, other.max_abs);
  worsen(worst.max_rel, other.max_rel);
  worst.max_ulp = worst.max_ulp && other.max_ulp
                      ? std::optional(std::max(*worst.max_ulp, *other.max_ulp))
                      : std::nullopt;
  if (worst.reason.empty()) worst.reason = other.reason;
}

Difference mismatch(const std::string& reason) {
  Difference difference;
  difference.reason = reason;
  return difference;
}

/// The tolerance of the leaf of which `output` is an instance.
Tolerance tolerance_of(const Method& method, const std::string& output) {
  for (const auto& [leaf, tolerance] : method.tolerances) {
    if (matches(leaf, output)) return tolerance;
  }
  return {};
}

Difference compare_output(const Method& method, const std::string& name, const TensorMap& actual,
                          const TensorMap& golden) {
  const auto got = actual.find(name);
  if (got == actual.end()) return mismatch("it is missing");
  const auto expected = golden.find(name);
  if (expected == golden.end()) return mismatch("it is not in the golden case");
  return compare(got->second, expected->second, tolerance_of(method, name));
}

/// One step of a sequence: it keeps the state.
using Step = std::function<TensorMap(const TensorMap&)>;

/// What runs the golden cases.
struct Candidate {
  std::function<Step(const Method&)> start;  // a new sequence of a method
  /// Why an output that is within its tolerance does not agree all the same, or an empty string.
  std::function<std::string(std::size_t number, std::size_t step, const std::string& output,
                            const at::Tensor& actual)>
      objection;
};

/// Runs one golden case once and gives every output of every step to `sink`.
template <typename Sink>
void run_case(const Candidate& candidate, const Method& method, std::size_t number,
              const std::vector<GoldenStep>& steps, const Sink& sink) {
  const Step run = candidate.start(method);
  std::string failure;
  for (std::size_t step = 0; step < steps.size(); ++step) {
    TensorMap actual;
    if (failure.empty()) {
      try {
        actual = run(steps[step].inputs);
      } catch (const OutOfMemoryError&) {
        throw;  // says something of the machine, and nothing of the archive
      } catch (const UsageError&) {
        throw;  // likewise of this process
      } catch (const Error& error) {
        // The eager module took these inputs, so an error is a mismatch, of this step and all
        // after.
        failure = error.what();
      }
    }
    std::set<std::string> names;
    for (const auto& [name, tensor] : steps[step].outputs) names.insert(name);
    for (const auto& [name, tensor] : actual) names.insert(name);
    for (const std::string& name : names) {
      const auto got = actual.find(name);
      Difference difference = failure.empty()
                                  ? compare_output(method, name, actual, steps[step].outputs)
                                  : mismatch(failure);
      if (difference.agreed && candidate.objection) {
        difference.reason = candidate.objection(number, step, name, got->second);
        difference.agreed = difference.reason.empty();
      }
      sink(step, name, got == actual.end() ? at::Tensor() : got->second, difference);
    }
  }
}

VerifyReport verify(const Archive& archive, const Candidate& candidate, int repeat) {
  const Manifest* manifest = archive.manifest();
  if (manifest == nullptr) {
    throw ArchiveError("'" + archive.path().string() +
                       "' is plain TorchScript without a manifest: nothing vouches for it");
  }
  if (manifest->golden.empty()) {
    throw ArchiveError("'" + archive.path().string() + "' holds no golden case");
  }
  const DefaultFloatingPoint mode;
  VerifyReport report;
  for (std::size_t number = 0; number < manifest->golden.size(); ++number) {
    const GoldenCase& golden = manifest->golden[number];
    const Method& method = *manifest->find_method(golden.method);
    std::map<std::pair<std::size_t, std::string>, Difference> differences;
    for (int round = 0; round < repeat; ++round) {
      run_case(candidate, method, number, archive.golden()[number],
               [&](std::size_t step, const std::string& name, const at::Tensor& actual,
                   const Difference& difference) {
                 const auto [known, first] = differences.try_emplace({step, name}, difference);
                 if (!first) worsen(known->second, difference);
                 if (round == 0 && actual.defined()) {
                   report.actual.emplace(golden_output_name(number, step, name), actual);
                 }
               });
    }
    for (auto& [key, difference] : differences) {
      report.results.push_back({.case_index = number,
                                .case_name = golden.name,
                                .method = golden.method,
                                .step = key.first,
                                .output = key.second,
                                .difference = std::move(difference)});
    }
  }
  report.agreed = std::ranges::all_of(
      report.results, [](const OutputResult& result) { return result.difference.agreed; });
  return report;
}

}  // namespace

Difference compare(const at::Tensor& actual_tensor, const at::Tensor& golden_tensor,
                   const Tolerance& tolerance) {
  const DefaultFloatingPoint mode;
  Difference result;
  if (actual_tensor.scalar_type() != golden_tensor.scalar_type() ||
      actual_tensor.sizes() != golden_tensor.sizes()) {
    result.reason = "expected " + describe(golden_tensor) + ", got " + describe(actual_tensor);
    return result;
  }
  const at::Tensor actual = plain(actual_tensor.cpu());
  const at::Tensor golden = plain(golden_tensor.cpu());
  result = compare_elements(actual, golden, tolerance);
  result.bit_identical =
      actual.nbytes() == 0 ||
      std::memcmp(actual.const_data_ptr(), golden.const_data_ptr(), actual.nbytes()) == 0;
  return result;
}

VerifyReport verify(const Archive& archive, int repeat) {
  const auto start = [&](const Method& method) -> Step {
    return [session = Session(archive, method.name)](const TensorMap& inputs) mutable {
      return session.step(inputs, OutputCheck::off);
    };
  };
  VerifyReport report = verify(archive, {.start = start, .objection = nullptr}, repeat);
  report.note = foreign_blas_note();
  return report;
}

VerifyReport verify(const Archive& archive, const NativeLibrary& library, int repeat) {
  const auto start = [&](const Method& method) -> Step {
    return [session = NativeSession(library, method.name)](const TensorMap& inputs) mutable {
      return session.step(inputs);
    };
  };
  const TensorMap float64_outputs = read_float64_outputs(archive);
  const auto objection = [&](std::size_t number, std::size_t step, const std::string& output,
                             const at::Tensor& actual) {
    const at::Tensor& golden = archive.golden()[number][step].outputs.at(output);
    const auto known = float64_outputs.find(golden_output_name(number, step, output));
    if (known == float64_outputs.end()) return beyond_bound(actual, golden, {}, 0);
    const auto& own = float64_outputs.at(own_error_name(number, step, output));
    return beyond_bound(actual, golden, known->second, own.item<double>());
  };
  return verify(archive, {.start = start, .objection = objection}, repeat);
}

}  // namespace torchship

#include "verify/float64_outputs.h"

#include <torchship/dtype.h>
#include <torchship/error.h>

#include <ATen/ops/isnan.h>

#include <algorithm>
#include <cmath>

namespace torchship {
namespace {

constexpr std::string_view record = "extra/torchship/float64_outputs.safetensors";

ArchiveError damaged(const std::string& message) {
  return ArchiveError("the record of float64 outputs " + message);
}

TensorMap read_tensors_of(const Archive& archive) {
  try {
    return read_safetensors(archive.read_record(record));
  } catch (const InputError& error) {
    throw damaged(std::string("is damaged: ") + error.what());
  }
}

void check(const std::string& name, const at::Tensor& tensor, const at::Tensor& golden) {
  if (tensor.scalar_type() != at::kDouble || tensor.sizes() != golden.sizes()) {
    throw damaged("has '" + name + "' as " + describe(tensor) + " for the golden output " +
                  describe(golden));
  }
  if (tensor.isnan().any().item<bool>()) throw damaged("holds NaN in '" + name + "'");
}

void check_error(const std::string& name, const at::Tensor& tensor) {
  if (tensor.scalar_type() != at::kDouble || tensor.dim() != 0) {
    throw damaged("has '" + name + "' as " + describe(tensor) + ": expected float64[]");
  }
  const double error = tensor.item<double>();
  if (!std::isfinite(error) || error < 0) {
    throw damaged("has '" + name + "' of " + std::to_string(error) +
                  ": expected a finite number of at least 0");
  }
}

}  // namespace

std::string own_error_name(std::size_t number, std::size_t step, std::string_view output) {
  return std::to_string(number) + "/" + std::to_string(step) + "/error/" + std::string(output);
}

std::string golden_output_name(std::size_t number, std::size_t step, std::string_view output) {
  return std::to_string(number) + "/" + std::to_string(step) + "/out/" + std::string(output);
}

bool is_lower_precision(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
}

TensorMap read_float64_outputs(const Archive& archive) {
  if (std::ranges::find(archive.records(), record, &Record::name) == archive.records().end()) {
    return {};
  }
  const TensorMap tensors = read_tensors_of(archive);
  std::size_t matched = 0;
  for (std::size_t number = 0; number < archive.golden().size(); ++number) {
    const auto first = tensors.lower_bound(std::to_string(number) + "/");
    if (first == tensors.end() || !first->first.starts_with(std::to_string(number) + "/")) continue;
    const auto& steps = archive.golden()[number];
    for (std::size_t step = 0; step < steps.size(); ++step) {
      for (const auto& [output, golden] : steps[step].outputs) {
        if (!is_lower_precision(golden.scalar_type())) continue;
        const std::string name = golden_output_name(number, step, output);
        const auto found = tensors.find(name);
        if (found == tensors.end()) throw damaged("lacks '" + name + "'");
        check(name, found->second, golden);
        const std::string error_name = own_error_name(number, step, output);
        const auto error = tensors.find(error_name);
        if (error == tensors.end()) throw damaged("lacks '" + error_name + "'");
        check_error(error_name, error->second);
        matched += 2;
      }
    }
  }
  if (matched != tensors.size()) {
    throw damaged("has tensors that are no golden outputs of lower precision");
  }
  return tensors;
}

}  // namespace torchship

#pragma once

/// The float64 outputs of golden cases (docs/archive.md, "Float64 outputs"). Internal.

#include <torchship/archive.h>
#include <torchship/tensor_io.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace torchship {

/// The name that the golden record has for an output: `<case>/<step>/out/<output>`.
std::string golden_output_name(std::size_t number, std::size_t step, std::string_view output);

/// The name of LibTorch's own largest error of an output: `<case>/<step>/error/<output>`.
std::string own_error_name(std::size_t number, std::size_t step, std::string_view output);

/// Whether a dtype is a float of less than 64 bits.
bool is_lower_precision(at::ScalarType type);

/// The archive's float64 outputs and LibTorch's own errors by these names; empty if it has no such
/// record. Raises ArchiveError if the record is damaged or does not match the golden cases.
TensorMap read_float64_outputs(const Archive& archive);

}  // namespace torchship

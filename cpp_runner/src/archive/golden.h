#pragma once

#include <torchship/archive.h>

namespace torchship {

/// Sorts the tensors of golden.safetensors into cases and steps; raises ArchiveError for one that
/// the manifest does not announce. Internal.
std::vector<std::vector<GoldenStep>> parse_golden_cases(const Manifest& manifest,
                                                        std::string_view bytes);

}  // namespace torchship

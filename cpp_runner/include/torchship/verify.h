#pragma once

/// The golden cases against what this runtime computes (docs/archive.md, "Agreement").

#include <torchship/hide_macros.h>

#include <torchship/archive.h>
#include <torchship/manifest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace torchship {

/// How far an output is from its golden value. The numbers are there where the two are comparable:
/// same dtype, same shape, no NaN. They may be infinite.
struct Difference {
  bool agreed = false;
  bool bit_identical = false;
  std::optional<double> max_abs;         // |a - b|
  std::optional<double> max_rel;         // |a - b| / max(|b|, smallest normal; 1 for integers)
  std::optional<std::uint64_t> max_ulp;  // representable numbers between: neighbours have 1
  std::string reason;                    // why not agreed; else empty
};

/// Compares one output with its golden value. Pure; any thread may call it.
Difference compare(const at::Tensor& actual, const at::Tensor& golden, const Tolerance& tolerance);

/// One output of one step of one golden case: the worst of all repetitions.
struct OutputResult {
  std::size_t case_index = 0;
  std::string case_name;
  std::string method;
  std::size_t step = 0;
  std::string output;
  Difference difference;
};

struct VerifyReport {
  bool agreed = false;
  std::vector<OutputResult> results;
  TensorMap actual;  // `<case>/<step>/out/<output>` of the first repetition
};

/// Runs every golden case `repeat` times: TorchScript's profiling executor specialises a graph at
/// its second call, so once is not enough. A missing or surplus output and a model that raises are
/// mismatches. Raises ArchiveError when there is nothing to compare with.
VerifyReport verify(const Archive& archive, int repeat = 3);

}  // namespace torchship

#include <torchship/restore_macros.h>

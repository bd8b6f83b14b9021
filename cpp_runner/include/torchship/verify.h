#pragma once

/// Compares what this runtime computes with the golden cases (docs/archive.md, "Agreement").

#include <torchship/hide_macros.h>

#include <torchship/archive.h>
#include <torchship/manifest.h>
#include <torchship/native.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace torchship {

/// How far an output is from its golden value. The three numbers are set if the two can be
/// compared: same dtype, same shape, no NaN. They may be infinite.
struct Difference {
  bool agreed = false;
  bool bit_identical = false;
  std::optional<double> max_abs;         // |a - b|
  std::optional<double> max_rel;         // |a - b| / max(|b|, smallest normal; 1 for integers)
  std::optional<std::uint64_t> max_ulp;  // representable numbers apart: neighbours have 1
  std::string reason;                    // why they do not agree; else empty
};

/// Compares one output with its golden value. Any thread may call it.
Difference compare(const at::Tensor& actual, const at::Tensor& golden, const Tolerance& tolerance);

/// The largest difference, over all repetitions, of one output of one step of one golden case.
struct OutputResult {
  std::size_t case_index = 0;
  std::string case_name;
  std::string method;
  std::size_t step = 0;
  std::string output;
  Difference difference;
};

/// The result of verify().
struct VerifyReport {
  bool agreed = false;
  std::vector<OutputResult> results;
  std::string note;  // what may explain a difference, such as another BLAS; or empty
  TensorMap actual;  // `<case>/<step>/out/<output>` of the first repetition
};

/// Runs every golden case `repeat` times, because TorchScript may optimise a graph after its first
/// call. A missing output, an additional output and a model that raises are mismatches. Raises
/// OutOfMemoryError if memory runs out, and ArchiveError if the archive has no golden cases.
VerifyReport verify(const Archive& archive, int repeat = 3);

/// The same for the compiled archive, which must agree by both rules of docs/archive.md,
/// "Agreement of runtimes without LibTorch". Also raises ArchiveError if the record of float64
/// outputs is damaged.
VerifyReport verify(const Archive& archive, const NativeLibrary& library, int repeat = 3);

}  // namespace torchship

#include <torchship/restore_macros.h>

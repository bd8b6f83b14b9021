#pragma once

/// Options for opening an archive. The defaults are the settings that Python uses
/// (`script/runtime/torchscript.py`), because agreement depends on them; a test compares both.

#include <torchship/hide_macros.h>

#include <torchship/signature.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// Whether LibTorch's TensorExpr fuser may join a chain of element-wise operators into one kernel.
/// A fused kernel rounds differently from the operators that it replaces, and exists only from the
/// second call on, so agreement is promised for `off` only. LibTorch's CPU wheels are built without
/// the compiler that the fuser needs on the CPU, so they fuse on CUDA only.
enum class Fusion {
  off,
  static_shapes,   // a kernel for each of the first two shapes; other shapes run unfused
  dynamic_shapes,  // kernels for any shape
};

/// The option's name on the command line: `off`, `static` or `dynamic`.
std::string_view fusion_name(Fusion fusion);

/// What happens to outputs whose dtype or shape is not as the manifest says.
enum class OutputCheck {
  strict,  // the call raises OutputError
  off,     // the call returns them

  // Former names, kept so that existing programs compile.
  enforce = strict,
  ignore = off,
};

/// Options of Archive::open().
struct Options {
  /// Threads inside one operator, 1 to 1024. The order in which numbers are added, and therefore
  /// rounding, depends on it. With more than one thread, OpenMP's threads busy-wait between calls,
  /// and a process that is forked after a call cannot run models (docs/embedding.md, "Threads").
  int threads = 1;

  /// The device on which the model runs: `cpu`, `cuda` or `cuda:<number>`. Inputs and outputs are
  /// tensors on the CPU; recurrent state stays on the device.
  std::string device = "cpu";

  /// The public keys that may have signed the archive. Without keys its signature is not checked.
  std::optional<TrustedKeys> trusted_keys = std::nullopt;

  /// How often each method runs when the archive is opened, with the inputs of its first golden
  /// case. The first calls are slow, because LibTorch allocates memory and chooses kernels in them,
  /// and with fusion compiles kernels in the first two. With 3, a program has no slow calls later.
  int warm_up = 0;

  /// Whether weights become constants of the graph (`torch.jit.freeze`). This is faster if batch
  /// norms can be folded into convolutions, and the results are then rounded differently.
  bool freeze = false;

  /// Whether element-wise operators may be fused.
  Fusion fusion = Fusion::off;

  /// The folders in which libraries of custom operators are searched for (operators.h).
  std::vector<std::filesystem::path> operators = {};
};

}  // namespace torchship

#include <torchship/restore_macros.h>

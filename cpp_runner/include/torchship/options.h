#pragma once

/// How an archive is opened. The defaults are those of Python (`script/runtime/torchscript.py`):
/// agreement depends on them, and a test reads both back from LibTorch.

#include <torchship/hide_macros.h>

#include <torchship/signature.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torchship {

/// What LibTorch's TensorExpr fuser may do with a chain of element-wise operators. A fused kernel
/// rounds differently from the operators it replaces, and only from the second call on: agreement
/// is promised for `off`. LibTorch's CPU wheels are built without the compiler it needs, and fuse
/// on CUDA alone.
enum class Fusion {
  off,
  static_shapes,   // a kernel for each of the first two shapes; others run unfused
  dynamic_shapes,  // kernels for any shape
};

/// `off`, `static` or `dynamic`.
std::string_view fusion_name(Fusion fusion);

/// What becomes of outputs that are not as the manifest says.
enum class OutputCheck {
  strict,  // OutputError is raised
  off,     // they are returned as they are

  // Their former names.
  enforce = strict,
  ignore = off,
};

struct Options {
  /// Threads inside one operator, 1 to 1024. The order of a sum, and so its rounding, depends on
  /// it. With more than one, OpenMP's workers spin between calls, and a process that is forked
  /// after a call cannot call any more (docs/embedding.md, "Threads").
  int threads = 1;

  /// `cpu`, `cuda` or `cuda:<number>`: where the model runs. Tensors are given and returned on the
  /// CPU; recurrent state stays on the device.
  std::string device = "cpu";

  /// Keys of which the archive's signature must be one; without keys the signature is not looked
  /// at.
  std::optional<TrustedKeys> trusted_keys = std::nullopt;

  /// How often each method runs when the archive is opened, on the inputs of its first golden case.
  /// The first calls allocate, plan and choose kernels, and with fusion the first two compile: 3
  /// keeps them out of a game's first frames.
  int warm_up = 0;

  /// Whether weights become constants of the graph (`torch.jit.freeze`). Faster where batch norms
  /// can be folded into convolutions, and then rounded differently.
  bool freeze = false;

  Fusion fusion = Fusion::off;

  /// Folders in which the libraries of custom operators may lie that archives name (operators.h).
  std::vector<std::filesystem::path> operators = {};
};

}  // namespace torchship

#include <torchship/restore_macros.h>

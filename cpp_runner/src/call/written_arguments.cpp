#include "call/written_arguments.h"

#include <ATen/core/jit_type.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>

namespace torchship {

std::vector<bool> written_arguments(torch::jit::Function& function) {
  const std::size_t count = function.getSchema().arguments().size();
  torch::jit::GraphFunction* const code = torch::jit::tryToGraphFunction(function);
  if (code == nullptr) return std::vector<bool>(count, true);
  const auto graph = code->graph()->copy();
  torch::jit::Inline(*graph);
  const torch::jit::AliasDb aliases(graph);
  std::vector<bool> written;
  for (const torch::jit::Value* input : graph->inputs()) {
    // What a list or tuple holds is not followed.
    const bool tensor = input->type()->kind() == c10::TypeKind::TensorType;
    written.push_back(!tensor || aliases.hasWriters(input));
  }
  written.resize(count, true);
  return written;
}

}  // namespace torchship

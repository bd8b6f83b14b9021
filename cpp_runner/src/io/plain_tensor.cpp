#include "io/plain_tensor.h"

#include <torchship/error.h>

#include <ATen/ops/zeros.h>

namespace torchship {

at::Tensor plain(const at::Tensor& tensor) {
  if (tensor._is_zerotensor()) return at::zeros(tensor.sizes(), tensor.options());
  if (tensor.is_neg() || tensor.is_conj()) {
    return tensor.resolve_conj().resolve_neg().contiguous();
  }
  return tensor.contiguous();
}

at::Tensor owned(const at::Tensor& tensor, bool shared) {
  at::Tensor made = plain(tensor);
  if (!made.is_same(tensor)) return made;
  shared = shared || tensor.storage().use_count() > 1 || tensor.requires_grad();
  return shared ? tensor.clone(at::MemoryFormat::Contiguous) : made;
}

at::Tensor writable(const at::Tensor& tensor) {
  if (tensor.layout() != at::kStrided) {
    throw EncodingError("a tensor that is not dense cannot be written: call to_dense() first");
  }
  return plain(tensor.detach().cpu());
}

}  // namespace torchship

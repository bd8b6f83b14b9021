#pragma once

/// Tensors of the C ABI to the library's own and back, without copying elements.

#include <torchship/tensor_io.h>
#include <torchship/torchship.h>

#include <cstddef>
#include <vector>

namespace torchship {

/// Tensors over the caller's memory, which must outlive them. Raises UsageError for a pointer that
/// is NULL and must not be, and InputError for a dtype, shape, stride or address that no tensor can
/// have. Pure.
TensorMap borrow(const torchship_tensor* tensors, std::size_t count);

/// Outputs while they are lent to a C program. Not thread-safe.
class LentTensors {
 public:
  LentTensors() = default;

  /// Makes `outputs` contiguous, and takes a copy of those that lie in the memory of one of
  /// `inputs`: it is the caller's, who may free it. Raises OutputError for a dtype that C does not
  /// know.
  LentTensors(TensorMap outputs, const TensorMap& inputs);

  LentTensors(LentTensors&&) = default;
  LentTensors& operator=(LentTensors&&) = default;
  LentTensors(const LentTensors&) = delete;
  LentTensors& operator=(const LentTensors&) = delete;
  ~LentTensors() = default;

  /// Sorted by name. They point into this object, and stay where they are when it moves.
  const std::vector<torchship_tensor>& view() const { return view_; }

 private:
  TensorMap tensors_;
  std::vector<torchship_tensor> view_;
};

}  // namespace torchship

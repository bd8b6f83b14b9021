#pragma once

/// Tensors of the C ABI to the library's own and back: inputs where they lie, outputs lent where
/// they lie, or copied into the caller's memory.

#include <torchship/error.h>
#include <torchship/tensor_io.h>
#include <torchship/torchship.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torchship {

/// How many tensors, buffers or folders one call takes, and how many bytes one object may have.
inline constexpr std::size_t most_in_one_call = 65'536;
inline constexpr std::size_t most_bytes = PTRDIFF_MAX;

/// Raises UsageError for a count or size that no object can have: the caller has not set it, or it
/// was a negative number.
inline void check_at_most(const std::string& name, std::size_t count, std::size_t most) {
  if (count <= most) return;
  throw UsageError(name + " is " + std::to_string(count) + ", expected at most " +
                   std::to_string(most));
}

/// Tensors over the caller's memory, which must outlive them. Raises UsageError for a pointer that
/// is NULL and must not be, and InputError for a dtype, shape, stride or address that no tensor can
/// have. Pure.
TensorMap borrow(const torchship_tensor* tensors, std::size_t count);

/// The caller's memory for outputs, which must outlive this object. Not thread-safe.
class Buffers {
 public:
  /// Raises what borrow() raises, of the output that a buffer names.
  Buffers(const torchship_buffer* buffers, std::size_t count);

  /// Copies each named output into its buffer, or raises before it has written to any: UsageError
  /// where there is no such output, InputError for another dtype or shape. Outputs are as a session
  /// returns them: contiguous, in memory of their own.
  void fill(const TensorMap& outputs) const;

 private:
  TensorMap views_;
};

/// Outputs while they are lent to a C program. Not thread-safe.
class LentTensors {
 public:
  LentTensors() = default;

  /// Takes outputs as a session returns them: contiguous, in memory of their own. Raises
  /// OutputError for a dtype that C does not know.
  explicit LentTensors(TensorMap outputs);

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

#pragma once

/// No memory is no fault of the input, of the archive or of the model, and passes. Internal.

#include <torchship/error.h>

#include <exception>
#include <string>

namespace torchship {

/// Whether an exception of LibTorch, of its interpreter or of the standard library says that there
/// was no memory. LibTorch has no type for it on the CPU, so its words are looked at.
bool says_out_of_memory(const std::exception& error);

/// The error for a user, as `what` ran out of memory; with LibTorch's line, which has the bytes.
OutOfMemoryError out_of_memory(const std::string& what, const std::exception& error);

}  // namespace torchship

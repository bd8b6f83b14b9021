#pragma once

/// Running out of memory has a code of its own: it says nothing against the input, the archive or
/// the model, and may pass. Internal.

#include <torchship/error.h>

#include <exception>
#include <string>

namespace torchship {

/// Whether an exception of LibTorch, of its interpreter or of the standard library says that there
/// was no memory. On the CPU LibTorch has no type for it, so the message is searched.
bool says_out_of_memory(const std::exception& error);

/// The error for a user, as `what` ran out of memory; with LibTorch's line, which has the bytes.
OutOfMemoryError out_of_memory(const std::string& what, const std::exception& error);

}  // namespace torchship

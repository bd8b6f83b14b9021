#pragma once

/// Exceptions to status codes, and the message that each thread had last. Internal.

#include <torchship/error.h>
#include <torchship/torchship.h>

#include "base/floating_point.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>

namespace torchship {

/// The message of this thread's last failure; valid until the next.
const char* last_message() noexcept;

/// Keeps the message for this thread, and returns the status.
torchship_status fail(torchship_status status, const char* message) noexcept;

/// The status of an exception that is no torchship::Error.
torchship_status status_of(const std::exception& unexpected);

/// Does `action`, which returns a status; the one place where exceptions become status codes.
template <typename Action>
torchship_status guarded(const Action& action) noexcept {
  const DefaultFloatingPoint mode;
  try {
    return action();
  } catch (const Error& error) {
    return fail(static_cast<torchship_status>(error.exit_code()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(TORCHSHIP_OUT_OF_MEMORY, "there is no memory for this call");
  } catch (const c10::Error& error) {
    return fail(status_of(error), error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(status_of(error), error.what());
  } catch (...) {
    return fail(TORCHSHIP_INTERNAL, "something was thrown that is no exception");
  }
}

/// What a pointer argument points to. Raises UsageError when it is NULL.
template <typename T>
T& given(T* pointer, const char* name) {
  if (pointer == nullptr) throw UsageError(std::string("argument '") + name + "' is NULL");
  return *pointer;
}

}  // namespace torchship

#include "c_api/c_errors.h"

#include "base/bytes.h"
#include "base/out_of_memory.h"

#include <algorithm>

namespace torchship {
namespace {

thread_local std::string message_of_thread;

}  // namespace

const char* last_message() noexcept {
  return message_of_thread.c_str();
}

torchship_status fail(torchship_status status, const char* message) noexcept {
  try {
    message_of_thread = message;
    // It may name a file or an input of the caller's, in whatever bytes.
    if (!is_utf8(message_of_thread)) {
      std::ranges::replace_if(
          message_of_thread, [](unsigned char byte) { return byte >= 0x80; }, '?');
    }
  } catch (...) {
    message_of_thread.clear();  // no memory for the message; the status tells
  }
  return status;
}

torchship_status status_of(const std::exception& unexpected) {
  return says_out_of_memory(unexpected) ? TORCHSHIP_OUT_OF_MEMORY : TORCHSHIP_INTERNAL;
}

}  // namespace torchship

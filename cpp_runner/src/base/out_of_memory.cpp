#include "base/out_of_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <new>
#include <string_view>

namespace torchship {
namespace {

constexpr std::array<std::string_view, 5> words{"can't allocate memory", "not enough memory",
                                                "out of memory", "Cannot allocate memory",
                                                "bad_alloc"};

std::string_view text_of(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  return of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
}

/// Where the text says it, to the end of the line: `you tried to allocate 8000 bytes`.
std::string detail(std::string_view text) {
  constexpr std::string_view asked = "you tried to allocate ";
  const auto start = text.find(asked);
  if (start == std::string_view::npos) return "";
  text.remove_prefix(start + asked.size());
  const auto end = text.find_first_not_of("0123456789");
  return end == 0 ? "" : ": it asked for " + std::string(text.substr(0, end)) + " bytes";
}

}  // namespace

bool says_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  if (dynamic_cast<const OutOfMemoryError*>(&error) != nullptr) return true;
  const std::string_view text = text_of(error);
  return std::ranges::any_of(
      words, [&](std::string_view word) { return text.find(word) != std::string_view::npos; });
}

OutOfMemoryError out_of_memory(const std::string& what, const std::exception& error) {
  return OutOfMemoryError(what + " ran out of memory" + detail(text_of(error)));
}

}  // namespace torchship

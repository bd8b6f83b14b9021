#pragma once

/// What LibTorch says, without the pages that follow. Internal.

#include <string>
#include <string_view>

namespace torchship {

inline std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace torchship

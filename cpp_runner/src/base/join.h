#pragma once

/// Lists in messages. Internal.

#include <functional>
#include <string>
#include <string_view>

namespace torchship {

/// The texts of `items`, the separator between each two: `a, b, c`. `text` makes a text of an item:
/// a function, or a member such as `&Method::name`.
template <typename Range, typename Text = std::identity>
std::string join(const Range& items, std::string_view separator, const Text& text = {}) {
  std::string joined;
  bool first = true;
  for (const auto& item : items) {
    if (!first) joined += separator;
    first = false;
    joined += std::invoke(text, item);
  }
  return joined;
}

}  // namespace torchship

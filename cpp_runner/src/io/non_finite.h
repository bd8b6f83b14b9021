#pragma once

/// Values that JSON has no numbers for, and the strings that stand for them: as in the server
/// (serve/protocol/json_values.py). Internal.

#include <cstddef>
#include <optional>
#include <string_view>

namespace torchship {

/// The value of `NaN`, `Infinity` and `-Infinity`; nothing for any other text.
std::optional<double> non_finite_value(std::string_view name);

/// How many characters at the start of the text are somebody's word for such a value, in any
/// spelling (`nan`, `-inf`, `+Infinity`); 0 where there is none.
std::size_t non_finite_word(std::string_view text);

/// For messages: how such a value can be sent.
inline constexpr std::string_view non_finite_ways =
    R"(send it as the string "NaN", "Infinity" or "-Infinity", or the tensor in a .npz or )"
    ".safetensors file";

}  // namespace torchship

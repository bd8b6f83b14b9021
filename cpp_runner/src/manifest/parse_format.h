#pragma once

/// The number of the archive's format, which may be any that a newer torchship writes. Internal.

#include "manifest/field.h"

#include <cstdint>
#include <string_view>

namespace torchship {

/// The number in the field `format`; `text` is the whole document. Raises FormatError for a format
/// that is newer than this library, ArchiveError for what is no format.
std::int64_t parse_format(const Field& format, std::string_view text);

/// Raises FormatError where `format` is an integer that no double can hold, for which JSON's parser
/// refuses the whole document.
void refuse_huge_format(std::string_view text);

}  // namespace torchship

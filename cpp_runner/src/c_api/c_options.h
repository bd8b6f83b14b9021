#pragma once

/// What a C program says of an archive that it opens. Internal.

#include <torchship/archive.h>
#include <torchship/options.h>
#include <torchship/torchship.h>

#include <cstddef>

namespace torchship {

/// The caller's options; NULL, and fields that its header does not have yet, are the defaults.
/// Raises UsageError.
Options options_of(const torchship_options* from);

/// The archive's bytes and its signature, in the caller's memory. Raises UsageError.
ArchiveBytes source_of(const void* bytes, std::size_t size, const char* name, const void* signature,
                       std::size_t signature_size);

}  // namespace torchship

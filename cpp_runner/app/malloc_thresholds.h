#pragma once

namespace torchship::app {

/// Lets glibc's malloc keep what one call frees for the next one: blocks below 32 MiB come from its
/// heap, and the end of the heap goes back to the system only when 64 MiB of it are free. By its
/// own rule, glibc sets the first to the largest block that was freed so far, and the second to
/// twice as much; the most that they become are these values. Temporaries beyond that are unmapped
/// and mapped again, page by page, in each call.
///
/// Does nothing where the user has set one of these values in the environment (MALLOC_..._ or
/// GLIBC_TUNABLES), or where the C library is another one. For a program's main(), before it starts
/// threads: malloc belongs to the process, so no library may do this.
void raise_malloc_thresholds();

}  // namespace torchship::app

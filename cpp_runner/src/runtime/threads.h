#pragma once

/// The threads inside an operator, as LibTorch and OpenMP keep them: each calling thread has a
/// number and workers of its own. Internal.

namespace torchship {

inline constexpr int most_threads = 1024;

/// Sets how many threads every call has from now on. Raises UsageError for a number below 1
/// or above most_threads: OpenMP ends a process that cannot make its threads.
void want_threads(int threads);

/// Whether want_threads() has been called.
bool threads_are_wanted();

/// Makes what was wanted hold in the calling thread, which may have used LibTorch before it was
/// wanted, and has its workers compute in the floating-point mode of the caller's. Raises
/// UsageError in a process that was forked from this thread after it had workers: they are not in
/// the child, and OpenMP would wait for them forever.
void use_wanted_threads();

}  // namespace torchship

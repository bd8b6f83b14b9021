#include "runtime/threads.h"

#include <torchship/error.h>

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <string>

namespace torchship {
namespace {

std::atomic<int> wanted{0};  // 0: want_threads() was not called

/// The workers that OpenMP keeps for one calling thread.
struct Workers {
  int threads = 1;
  pid_t process = 0;
};
thread_local Workers workers;

/// Workers that another part of the program has started may flush subnormal numbers to zero, or
/// round otherwise. They are reached through LibTorch's loops: at::parallel_for here would be
/// compiled without OpenMP.
void start_workers(int threads) {
  std::fenv_t mode;
  std::fegetenv(&mode);
  const auto set_mode = [&mode](char**, const std::int64_t*, std::int64_t, std::int64_t) {
    std::fesetenv(&mode);
  };
  at::Tensor one_each = at::zeros({threads}, at::TensorOptions(at::kByte));
  at::TensorIterator::nullary_op(one_each).for_each(set_mode, /*grain_size=*/1);
  workers = {.threads = threads, .process = ::getpid()};
}

}  // namespace

void want_threads(int threads) {
  if (threads < 1 || threads > most_threads) {
    throw UsageError("threads: expected 1 to " + std::to_string(most_threads) + ", got " +
                     std::to_string(threads));
  }
  wanted = threads;
}

bool threads_are_wanted() {
  return wanted != 0;
}

void use_wanted_threads() {
  const int threads = wanted;
  if (threads == 0) return;
  if (at::get_num_threads() != threads) at::set_num_threads(threads);
  if (threads == 1) return;
  if (workers.process != 0 && workers.process != ::getpid()) {
    throw UsageError(
        "this process was forked after a call with " + std::to_string(workers.threads) +
        " threads, which are not in it: open the archive with threads = 1, or fork before the "
        "first call");
  }
  if (workers.threads != threads) start_workers(threads);
}

}  // namespace torchship

// thread_pool fizzbuzz.pt THREADS
//
// One archive, a session per thread: the threads take the numbers 1 to 100 from one counter, and
// say how many of each word there are.

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include <ATen/ops/from_blob.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

/// What the threads share; the archive needs no lock.
struct Work {
  const torchship::Archive archive;
  std::atomic<int> next{1};
  std::mutex mutex;
  std::map<std::string, int> words;
  std::exception_ptr failure;
};

void take_numbers(Work& work) {
  torchship::Session session(work.archive);  // belongs to this thread
  const auto& labels = work.archive.manifest()->labels.at("scores");
  std::map<std::string, int> words;
  for (int number = work.next++; number <= 100; number = work.next++) {
    std::array<float, 10> bits{};
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<float>((number >> i) & 1);
    const auto outputs = session.run({{"x", at::from_blob(bits.data(), {1, 10})}});
    const auto best = outputs.at("scores").argmax().item().toLong();
    ++words[labels.at(static_cast<std::size_t>(best))];
  }
  const std::lock_guard lock(work.mutex);
  for (const auto& [word, count] : words) work.words[word] += count;
}

/// An exception must not leave a thread: the first one is kept for whoever joins it.
void run_thread(Work& work) {
  try {
    take_numbers(work);
  } catch (...) {
    const std::lock_guard lock(work.mutex);
    if (!work.failure) work.failure = std::current_exception();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: thread_pool fizzbuzz.pt THREADS\n", stderr);
    return 2;
  }
  try {
    Work work{.archive = torchship::Archive::open(argv[1])};
    std::vector<std::thread> threads;
    for (int i = 0; i < std::atoi(argv[2]); ++i) threads.emplace_back(run_thread, std::ref(work));
    for (std::thread& thread : threads) thread.join();
    if (work.failure) std::rethrow_exception(work.failure);
    for (const auto& [word, count] : work.words) std::printf("%s %d\n", word.c_str(), count);
  } catch (const torchship::Error& error) {
    std::fprintf(stderr, "thread_pool: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}

// Memory must not grow while a session steps. The tests count the bytes that malloc has handed out,
// because they do not depend on the allocator's reserve or on other processes.

#include <torchship/session.h>

#include "support.h"

#include <malloc.h>

namespace torchship::leak_test {
namespace {

using namespace torchship::testing;

std::size_t bytes_in_use() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

TEST(leak, memory_does_not_grow_over_100000_steps) {
  const Archive archive(artefact("counter.pt"));
  Session session(archive);
  const TensorMap inputs{{"x", floats({1, -2}, {1, 2})}};
  const auto steps = [&](int count) {
    for (int i = 0; i < count; ++i) session.step(inputs);
  };
  steps(2'000);  // LibTorch profiles and optimises the first calls
  const std::size_t before = bytes_in_use();
  steps(100'000);
  // A leak of one byte in each step would be 100,000 bytes.
  EXPECT_LT(bytes_in_use(), before + 50'000);
}

TEST(leak, a_session_frees_its_memory) {
  const Archive archive(artefact("counter.pt"));
  const TensorMap inputs{{"x", floats({1, -2}, {1, 2})}};
  const auto sessions = [&](int count) {
    for (int i = 0; i < count; ++i) Session(archive).step(inputs);
  };
  sessions(100);
  const std::size_t before = bytes_in_use();
  sessions(10'000);
  EXPECT_LT(bytes_in_use(), before + 50'000);
}

}  // namespace
}  // namespace torchship::leak_test

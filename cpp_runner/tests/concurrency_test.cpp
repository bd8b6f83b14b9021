// Many sessions of one archive on many threads: each must give the outputs that it gives alone.

#include <torchship/error.h>
#include <torchship/session.h>
#include <torchship/verify.h>

#include "support.h"

#include <ATen/ops/zeros.h>

#include <future>
#include <latch>
#include <set>

namespace torchship::concurrency_test {
namespace {

using namespace torchship::testing;

constexpr int threads = 8;
constexpr int steps = 12;

/// Runs `action(thread)` on all threads, started together; returns their results.
template <typename Action>
auto on_threads(const Action& action) {
  std::latch start(threads);
  std::vector<std::future<decltype(action(0))>> running;
  for (int thread = 0; thread < threads; ++thread) {
    running.push_back(std::async(std::launch::async, [&, thread] {
      start.arrive_and_wait();
      return action(thread);
    }));
  }
  std::vector<decltype(action(0))> results;
  for (auto& result : running) results.push_back(result.get());
  return results;
}

/// The inputs of a thread in a step. They are all different, and threads differ in batch size.
TensorMap observation(int thread, int step) {
  at::Tensor obs = at::zeros({1 + thread % 3, 510}, at::TensorOptions(at::kByte));
  for (std::int64_t row = 0; row < obs.size(0); ++row) {
    for (int i = 0; i < 40; ++i) obs[row][(thread * 61 + step * 17 + i * 7) % 510] = 1 + i % 5;
  }
  return {{"obs", obs}};
}

/// Runs one thread's steps. Halfway, even threads reset a row and odd threads save and load the
/// state.
std::vector<TensorMap> play(Session session, int thread) {
  std::vector<TensorMap> outputs;
  for (int step = 0; step < steps; ++step) {
    if (step == steps / 2 && thread % 2 == 0) session.reset(std::vector<std::int64_t>{0});
    if (step == steps / 2 && thread % 2 != 0) {
      session.load_state(read_safetensors(write_safetensors(session.save_state())));
    }
    outputs.push_back(session.step(observation(thread, step)));
  }
  return outputs;
}

void expect_same(const std::vector<TensorMap>& actual, const std::vector<TensorMap>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t step = 0; step < actual.size(); ++step) {
    ASSERT_EQ(actual[step].size(), expected[step].size());
    for (const auto& [name, tensor] : actual[step]) {
      EXPECT_TRUE(same(tensor, expected[step].at(name))) << "step " << step << " " << name;
    }
  }
}

std::vector<std::vector<TensorMap>> played_alone() {
  const Archive archive = Archive::open(artefact("moba.pt"));
  std::vector<std::vector<TensorMap>> expected;
  for (int thread = 0; thread < threads; ++thread) {
    expected.push_back(play(Session(archive), thread));
  }
  return expected;
}

// During the first calls LibTorch profiles and rewrites the graph that all sessions share.
TEST(concurrency, sessions_of_a_new_archive) {
  const auto expected = played_alone();
  const Archive archive = Archive::open(artefact("moba.pt"));
  const auto actual = on_threads([&](int thread) { return play(Session(archive), thread); });
  for (std::size_t thread = 0; thread < threads; ++thread) {
    SCOPED_TRACE("thread " + std::to_string(thread));
    expect_same(actual[thread], expected[thread]);
  }
}

TEST(concurrency, sessions_of_a_warm_archive) {
  const auto expected = played_alone();
  const Archive archive = Archive::open(artefact("moba.pt"), {.warm_up = 3});
  const auto actual = on_threads([&](int thread) { return play(Session(archive), thread); });
  for (std::size_t thread = 0; thread < threads; ++thread) {
    SCOPED_TRACE("thread " + std::to_string(thread));
    expect_same(actual[thread], expected[thread]);
  }
}

TEST(concurrency, the_module_is_loaded_once) {
  const Archive archive(artefact("moba.pt"));  // read, not yet loaded
  const auto modules = on_threads([&](int) {
    const Archive copy = archive;
    static_cast<void>(Session(copy));
    return copy.module();
  });
  EXPECT_EQ(std::set(modules.begin(), modules.end()).size(), 1U);
}

TEST(concurrency, the_last_session_frees_the_archive) {
  const auto expected = played_alone();
  auto archive = std::make_unique<const Archive>(Archive::open(artefact("moba.pt")));
  std::vector<Session> sessions;
  for (int thread = 0; thread < threads; ++thread) sessions.emplace_back(*archive);
  archive.reset();
  const auto actual = on_threads([&](int thread) {
    return play(std::move(sessions[static_cast<std::size_t>(thread)]),
                thread);  // the session is freed here
  });
  for (std::size_t thread = 0; thread < threads; ++thread) {
    expect_same(actual[thread], expected[thread]);
  }
}

TEST(concurrency, copies_of_a_session) {
  const Archive archive = Archive::open(artefact("moba.pt"));
  Session first(archive);
  first.step(observation(0, 0));
  const auto go_on = [](Session session, int thread) {
    std::vector<TensorMap> outputs;
    for (int step = 1; step < steps; ++step) {
      outputs.push_back(session.step(observation(3 * thread, step)));  // a single row
    }
    return outputs;
  };
  const auto actual = on_threads([&](int thread) { return go_on(first, thread); });
  for (int thread = 0; thread < threads; ++thread) {
    Session alone(archive);
    alone.load_state(first.save_state());
    expect_same(actual[static_cast<std::size_t>(thread)], go_on(std::move(alone), thread));
  }
}

TEST(concurrency, errors_stay_on_their_thread) {
  const Archive archive = Archive::open(artefact("raises.pt"));
  const auto messages = on_threads([&](int thread) {
    const Session session(archive);
    std::string message;
    for (int step = 0; step < steps; ++step) {
      const float value = thread % 2 == 0 ? 11.0F : 1.0F;
      try {
        session.run({{"x", floats({value, 0, 0}, {1, 3})}});
      } catch (const ModelError& error) {
        message = error.what();
      }
    }
    return message;
  });
  for (std::size_t thread = 0; thread < threads; ++thread) {
    EXPECT_EQ(messages[thread],
              thread % 2 == 0
                  ? "model 'raises' method 'forward' raised: a value above 10 is forbidden"
                  : "");
  }
}

TEST(concurrency, a_session_moves_between_threads) {
  const auto expected = played_alone();
  const Archive archive = Archive::open(artefact("moba.pt"));
  Session session(archive);
  std::vector<TensorMap> actual;
  for (int step = 0; step < steps / 2; ++step) {
    actual.push_back(
        std::async(std::launch::async, [&] { return session.step(observation(1, step)); }).get());
  }
  expect_same(actual, {expected[1].begin(), expected[1].begin() + steps / 2});
}

TEST(concurrency, verification_while_other_sessions_run) {
  const Archive archive = Archive::open(artefact("moba.pt"));
  const auto agreed = on_threads([&](int thread) {
    if (thread % 2 == 0) return verify(archive, 1).agreed;
    return play(Session(archive), thread).size() == steps;
  });
  for (const bool verdict : agreed) EXPECT_TRUE(verdict);
}

}  // namespace
}  // namespace torchship::concurrency_test

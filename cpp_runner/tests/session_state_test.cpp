// The recurrent state of a session: resetting rows, saving and loading.

#include <torchship/error.h>
#include <torchship/session.h>

#include "support.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>

namespace torchship::session_state_test {
namespace {

using namespace torchship::testing;
using Rows = std::vector<std::int64_t>;

Session open(const std::string& name, const std::string& method = "forward") {
  return Session(Archive::open(artefact(name + ".pt")), method);
}

/// A session of `counter` with three rows after one step. Its state is 1, 2, 3 in both columns.
Session counted() {
  Session session = open("counter");
  session.step({{"x", floats({1, 1, 2, 2, 3, 3}, {3, 2})}});
  return session;
}

/// The first column of the state with which the next step of a `counter` with three rows starts.
std::vector<float> state_of(Session& session) {
  const at::Tensor sum = session.step({{"x", at::zeros({3, 2})}}).at("sum");
  return {sum[0][0].item<float>(), sum[1][0].item<float>(), sum[2][0].item<float>()};
}

/// Observations for `moba`, with values below 9; it accepts values below 16.
TensorMap observations(std::int64_t batch, std::uint64_t seed) {
  return {{"obs", at::randint(0, 8, {batch, 510}, at::TensorOptions(at::kByte)).add_(seed % 2)}};
}

TEST(session_state, reset_rows_start_from_zeros) {
  Session session = counted();
  session.reset(Rows{1});
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 0, 3}));
  session.reset(Rows{2, 0, 2});
  EXPECT_EQ(state_of(session), (std::vector<float>{0, 0, 0}));
}

TEST(session_state, resetting_no_rows_changes_nothing) {
  Session session = counted();
  session.reset(Rows{});
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 2, 3}));
}

TEST(session_state, a_reset_leaves_earlier_outputs_unchanged) {
  Session session = counted();
  const at::Tensor before = session.step({{"x", at::zeros({3, 2})}}).at("sum");
  session.reset(Rows{0, 1, 2});
  EXPECT_TRUE(same(before, floats({1, 1, 2, 2, 3, 3}, {3, 2})));
}

TEST(session_state, missing_rows_are_refused) {
  Session session = counted();
  const auto fails = [&](const Rows& rows) {
    return message_of<InputError>([&] { session.reset(rows); });
  };
  EXPECT_EQ(fails({0, 3}), "row 3 cannot be reset: the state has 3 rows");
  EXPECT_EQ(fails({-1}), "row -1 cannot be reset: the state has 3 rows");
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 2, 3}));  // row 0 has not changed either
}

TEST(session_state, resetting_rows_before_the_first_step_has_no_effect) {
  Session session = open("counter");
  session.reset(Rows{7});
  EXPECT_EQ(state_of(session), (std::vector<float>{0, 0, 0}));
}

TEST(session_state, methods_whose_rows_cannot_be_reset) {
  const auto fails = [](Session session) {
    return message_of<UsageError>([&] { session.reset(Rows{0}); });
  };
  EXPECT_EQ(fails(open("tiny")), "no rows to reset: method 'forward' carries no state");
  EXPECT_EQ(fails(open("lstm")),
            "rows of state 'hidden.0' cannot be reset: it starts absent, not as zeros; reset all "
            "rows together");
  EXPECT_EQ(fails(open("total")),
            "rows of state 'h' cannot be reset: float32[2] has no dimension 'batch'");
}

TEST(session_state, reset_agents_play_as_new_ones) {
  for (const char* method : {"forward", "act"}) {
    Session session = open("moba", method);
    session.step(observations(4, 1));
    session.step(observations(4, 2));
    TensorMap given = session.save_state();
    for (auto& [name, tensor] : given) {
      tensor[1].zero_();
      tensor[3].zero_();
    }
    session.reset(Rows{3, 1});
    const TensorMap observed = observations(4, 3);
    given.insert(observed.begin(), observed.end());
    const TensorMap expected = open("moba", method).run(given);
    for (const auto& [name, tensor] : session.step(observed)) {
      EXPECT_TRUE(same(tensor, expected.at(name))) << method << " " << name;
    }
  }
}

TEST(session_state, continues_after_a_round_trip_through_a_file) {
  for (const char* name : {"counter", "moba", "lstm"}) {
    const Archive archive(artefact(std::string(name) + ".pt"));
    const std::vector<GoldenStep>& steps = archive.golden().at(0);
    Session session(archive);
    TensorMap inputs = steps.front().inputs;
    session.step(inputs);
    for (const State& state : session.method().state) inputs.erase(state.input);
    const TensorMap saved = session.save_state();
    EXPECT_EQ(saved.size(), session.method().state.size()) << name;

    Session other(archive);
    other.load_state(read_safetensors(write_safetensors(saved)));
    const TensorMap expected = session.step(inputs);
    const TensorMap fresh = Session(archive).step(inputs);
    bool any_differs = false;
    for (const auto& [output, tensor] : other.step(inputs)) {
      EXPECT_TRUE(same(tensor, expected.at(output))) << name << " " << output;
      any_differs = any_differs || !same(tensor, fresh.at(output));
    }
    EXPECT_TRUE(any_differs) << name << ": the state makes no difference";
  }
}

TEST(session_state, is_copied_when_saved_and_when_loaded) {
  Session session = counted();
  TensorMap saved = session.save_state();
  saved.at("h").fill_(100);
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 2, 3}));
  session.load_state(saved);
  saved.at("h").fill_(7);
  EXPECT_EQ(state_of(session), (std::vector<float>{100, 100, 100}));
}

TEST(session_state, is_empty_before_the_first_step) {
  EXPECT_TRUE(open("counter").save_state().empty());
  EXPECT_TRUE(open("tiny").save_state().empty());
  Session session = counted();
  session.load_state({});
  EXPECT_TRUE(session.save_state().empty());
  EXPECT_EQ(state_of(session), (std::vector<float>{0, 0, 0}));
}

TEST(session_state, loaded_views_are_read_with_their_strides) {
  Session session = open("counter");
  session.load_state({{"h", floats({1, 2, 3, 7, 8, 9}, {2, 3}).t()}});
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 2, 3}));
}

TEST(session_state, loaded_state_is_checked) {
  Session session = counted();
  const auto fails = [](Session& which, const TensorMap& state) {
    return message_of<InputError>([&] { which.load_state(state); });
  };
  EXPECT_EQ(fails(session, {{"x", at::zeros({1, 2})}}),
            "unknown state 'x': method 'forward' carries h");
  EXPECT_EQ(fails(session, {{"h", at::zeros({1, 3})}}),
            "state 'h': expected float32[batch,2], got float32[1,3]");
  EXPECT_EQ(fails(session, {{"h", at::zeros({1, 2}, at::TensorOptions(at::kDouble))}}),
            "state 'h': expected float32[batch,2], got float64[1,2]");
  EXPECT_TRUE(contains(fails(session, {{"h", at::Tensor()}}), "got no tensor"));
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 2, 3}));

  Session moba = open("moba");
  EXPECT_EQ(fails(moba, {{"h", at::zeros({2, 128})}}),
            "missing state 'c': method 'forward' carries h, c");
  EXPECT_EQ(fails(moba, {{"h", at::zeros({2, 128})}, {"c", at::zeros({3, 128})}}),
            "state 'c': expected float32[batch,128] with batch=2, got float32[3,128]");
}

TEST(session_state, moves_between_methods) {
  const Archive archive = Archive::open(artefact("moba.pt"));
  Session act(archive, "act");
  Session forward(archive);
  act.step(observations(2, 1));
  forward.load_state(act.save_state());
  const TensorMap observed = observations(2, 2);
  const TensorMap next = forward.step(observed);
  EXPECT_TRUE(same(next.at("h"), act.step(observed).at("h")));
}

TEST(session_state, a_copy_continues_independently) {
  Session session = counted();
  Session copy = session;
  EXPECT_EQ(copy.method().name, "forward");
  copy.step({{"x", floats({10, 10, 10, 10, 10, 10}, {3, 2})}});
  copy.reset(Rows{0});
  EXPECT_EQ(state_of(session), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(state_of(copy), (std::vector<float>{0, 12, 13}));
  session = copy;
  session.reset();
  EXPECT_EQ(state_of(copy), (std::vector<float>{0, 12, 13}));
}

}  // namespace
}  // namespace torchship::session_state_test

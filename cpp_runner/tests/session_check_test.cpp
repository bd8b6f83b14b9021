// The inputs that a session accepts: views with any strides, but only dense tensors in CPU memory.

#include <torchship/error.h>
#include <torchship/session.h>

#include "support.h"

#include <ATen/ops/_neg_view.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

namespace torchship::session_check_test {
namespace {

using namespace torchship::testing;

Session open(const std::string& name, const std::string& method = "forward") {
  return Session(Archive::open(artefact(name + ".pt")), method);
}

std::string refusal(const Session& session, const TensorMap& inputs) {
  return message_of<InputError>([&] { session.run(inputs); });
}

/// The same numbers with other numbers between them in memory.
at::Tensor scattered(const at::Tensor& tensor) {
  return at::stack({tensor, tensor.logical_not().to(tensor.scalar_type())}, -1).select(-1, 0);
}

TEST(session_check, views_are_read_with_their_strides) {
  const Session counter = open("counter");
  const at::Tensor x = floats({1, 2, 3, 4}, {2, 2});
  const auto sum = [&](const at::Tensor& given) { return counter.run({{"x", given}}).at("sum"); };
  EXPECT_TRUE(same(sum(x.t()), floats({1, 3, 2, 4}, {2, 2})));
  EXPECT_TRUE(same(sum(x.select(0, 1).expand({3, 2})), floats({3, 4, 3, 4, 3, 4}, {3, 2})));
  EXPECT_TRUE(
      same(sum(floats({0, 1, 2, 3, 4, 5}, {2, 3}).slice(1, 1)), floats({1, 2, 4, 5}, {2, 2})));
  EXPECT_TRUE(same(sum(at::_neg_view(x)), floats({-1, -2, -3, -4}, {2, 2})));
  EXPECT_TRUE(same(sum(x.flip(0)), floats({3, 4, 1, 2}, {2, 2})));
}

// Views take the general path. Contiguous inputs take the fast path if the method has one. The
// outputs must be the same.
TEST(session_check, fast_path_and_general_path_agree) {
  for (const char* name : {"moba", "counter", "lstm", "fizzbuzz", "bobnet", "odd"}) {
    const Archive archive = Archive::open(artefact(std::string(name) + ".pt"));
    for (std::size_t number = 0; number < archive.golden().size(); ++number) {
      const std::string& method = archive.manifest()->golden[number].method;
      Session shorter(archive, method);
      Session longer(archive, method);
      for (const GoldenStep& step : archive.golden()[number]) {
        TensorMap views;
        for (const auto& [input, tensor] : step.inputs) views[input] = scattered(tensor);
        const TensorMap expected = longer.step(views);
        const TensorMap actual = shorter.step(step.inputs);
        ASSERT_EQ(actual.size(), expected.size());
        for (const auto& [output, tensor] : actual) {
          EXPECT_TRUE(same(tensor, expected.at(output))) << name << " " << method << " " << output;
          EXPECT_TRUE(tensor.is_contiguous());
        }
      }
    }
  }
}

TEST(session_check, strings_may_be_views) {
  const Archive archive = Archive::open(artefact("odd.pt"));
  const Session session(archive);
  TensorMap inputs = archive.golden().at(0).at(0).inputs;
  const at::Tensor expected = session.run(inputs).at("output.0");
  const at::Tensor text = inputs.at("text");
  // If its strides were ignored, this string would not be UTF-8.
  inputs["text"] = at::stack({text, text.mul(0).add(0xFF)}, -1).select(-1, 0);
  EXPECT_TRUE(same(session.run(inputs).at("output.0"), expected));
}

TEST(session_check, tensors_without_dense_cpu_memory_are_refused) {
  const Session counter = open("counter");
  EXPECT_EQ(refusal(counter, {{"x", at::Tensor()}}),
            "input 'x': expected float32[batch,2], got no tensor");
  EXPECT_EQ(refusal(counter, {{"x", at::ones({1, 2}).to_sparse()}}),
            "input 'x': expected float32[batch,2], got one that is not dense");
  const at::Tensor nowhere = at::empty({1, 2}, at::TensorOptions(at::kFloat).device(at::kMeta));
  EXPECT_EQ(refusal(counter, {{"x", nowhere}}),
            "input 'x': expected float32[batch,2], got float32[1,2] on meta");
  EXPECT_EQ(refusal(open("plain"), {{"arr_0", at::Tensor()}}),
            "input 'arr_0': expected a tensor, got no tensor");
}

TEST(session_check, other_dtypes_are_refused) {
  const Session moba = open("moba");
  for (const at::ScalarType dtype : {at::kFloat, at::kInt, at::kChar, at::kBool, at::kHalf}) {
    EXPECT_TRUE(contains(refusal(moba, {{"obs", at::zeros({1, 510}, at::TensorOptions(dtype))}}),
                         "input 'obs': expected uint8[batch,510], got "));
  }
  const at::Tensor complex = at::zeros({1, 2}, at::TensorOptions(at::kComplexFloat));
  EXPECT_TRUE(contains(refusal(open("counter"), {{"x", complex}}), "expected float32[batch,2]"));
}

TEST(session_check, a_refused_call_does_not_run_the_model) {
  const Session session = open("drift");  // counts its calls
  EXPECT_TRUE(contains(refusal(session, {{"x", at::zeros({1, 4})}}), "got float32[1,4]"));
  EXPECT_TRUE(contains(refusal(session, {{"z", at::zeros({1, 3})}}), "unknown input 'z'"));
  EXPECT_TRUE(same(session.run({{"x", at::zeros({1, 3})}}).at("y"), at::ones({1, 3})));
}

TEST(session_check, no_autograd_graph_is_kept) {
  Session session = open("counter");
  const at::Tensor x = at::ones({1, 2}).requires_grad_();
  EXPECT_FALSE(session.step({{"x", x}}).at("sum").requires_grad());
  EXPECT_FALSE(session.step({{"x", x}}).at("sum").requires_grad());
}

TEST(session_check, rows_of_a_batch_agree_with_single_rows) {
  const Session fizzbuzz = open("fizzbuzz");
  const at::Tensor x = at::randint(0, 2, {5, 10}, at::TensorOptions(at::kFloat));
  const at::Tensor scores = fizzbuzz.run({{"x", x}}).at("scores");
  for (std::int64_t row = 0; row < 5; ++row) {
    const at::Tensor alone = fizzbuzz.run({{"x", x.slice(0, row, row + 1)}}).at("scores");
    EXPECT_TRUE(at::allclose(scores.slice(0, row, row + 1), alone, 1e-5, 1e-6));
  }
  EXPECT_EQ(fizzbuzz.run({{"x", x.slice(0, 0, 0)}}).at("scores").size(0), 0);
}

}  // namespace
}  // namespace torchship::session_check_test

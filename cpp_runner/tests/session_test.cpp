#include <torchship/error.h>
#include <torchship/runtime.h>
#include <torchship/session.h>

#include "support.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

namespace torchship::session_test {
namespace {

using namespace torchship::testing;
using nlohmann::json;

Session open(const std::string& name, const std::string& method = "forward") {
  configure_runtime();
  return Session(Archive(artefact(name + ".pt")), method);
}

at::Tensor zeros(std::vector<std::int64_t> shape, at::ScalarType dtype = at::kFloat) {
  return at::zeros(shape, at::TensorOptions(dtype));
}

template <typename E = InputError>
std::string refusal(const Session& session, const TensorMap& inputs) {
  return message_of<E>([&] { session.run(inputs); });
}

TensorMap odd_inputs() {
  return Archive(artefact("odd.pt")).golden().at(0).at(0).inputs;
}

TEST(session, wrong_dtype_rank_or_size) {
  const Session moba = open("moba");
  EXPECT_EQ(refusal(moba, {{"obs", zeros({1, 512})}}),
            "input 'obs': expected uint8[batch,510], got float32[1,512]");
  EXPECT_EQ(refusal(moba, {{"obs", zeros({1, 510})}}),
            "input 'obs': expected uint8[batch,510], got float32[1,510]");
  EXPECT_EQ(refusal(moba, {{"obs", zeros({1, 511}, at::kByte)}}),
            "input 'obs': expected uint8[batch,510], got uint8[1,511]");
  EXPECT_EQ(refusal(moba, {{"obs", zeros({510}, at::kByte)}}),
            "input 'obs': expected uint8[batch,510], got uint8[510]");
}

TEST(session, symbols_are_equal_within_a_call) {
  const Session moba = open("moba");
  EXPECT_EQ(refusal(moba, {{"obs", zeros({2, 510}, at::kByte)}, {"h", zeros({3, 128})}}),
            "input 'h': expected float32[batch,128] with batch=2, got float32[3,128]");
}

TEST(session, unknown_and_missing_names) {
  const Session moba = open("moba");
  EXPECT_EQ(refusal(moba, {{"observation", zeros({1, 510}, at::kByte)}}),
            "unknown input 'observation': method 'forward' takes obs, h, c");
  EXPECT_EQ(refusal(moba, {{"h", zeros({1, 128})}}),
            "missing input 'obs': method 'forward' takes obs, h, c; got h");
  EXPECT_EQ(refusal(moba, {}),
            "missing input 'obs': method 'forward' takes obs, h, c; got nothing");
}

TEST(session, unknown_methods) {
  EXPECT_TRUE(
      contains(message_of<UsageError>([] { open("moba", "think"); }), "no method 'think'; it has"));
  EXPECT_TRUE(contains(message_of<UsageError>([] { open("plain", "think"); }), "it has forward"));
}

TEST(session, every_kind_of_argument) {
  const Archive archive(artefact("odd.pt"));
  const Session session(archive);
  for (const auto& steps : archive.golden()) {
    const TensorMap outputs = session.run(steps.at(0).inputs);
    EXPECT_EQ(outputs.size(), 4U);
    for (const auto& [name, golden] : steps.at(0).outputs) {
      ASSERT_TRUE(outputs.contains(name)) << name;
      EXPECT_TRUE(same(outputs.at(name), golden)) << name;
    }
  }
}

TEST(session, a_missing_leaf_of_an_optional_tuple) {
  const Session session = open("odd");
  TensorMap inputs = odd_inputs();
  inputs["extra.0"] = zeros({2});
  EXPECT_TRUE(contains(refusal(session, inputs), "missing input 'extra.1'"));
}

TEST(session, lists_of_any_length) {
  const Session session = open("odd");
  TensorMap inputs = odd_inputs();
  const at::Tensor before = session.run(inputs).at("output.0");
  inputs["xs.2"] = zeros({2});
  EXPECT_TRUE(same(session.run(inputs).at("output.0"), before));  // adding a third tensor of zeros
  EXPECT_TRUE(session.run(inputs).contains("output.2.2"));
  inputs.erase("xs.0");
  EXPECT_TRUE(contains(refusal(session, inputs), "missing input 'xs.0'"));
  inputs.erase("xs.1");
  inputs.erase("xs.2");
  EXPECT_FALSE(session.run(inputs).contains("output.2.0"));
  inputs["xs.first"] = zeros({2});
  EXPECT_TRUE(contains(refusal(session, inputs), "missing input 'xs.0'"));
}

TEST(session, numbers_and_strings_are_checked) {
  const Session session = open("odd");
  const auto with = [&](const char* name, const at::Tensor& tensor) {
    TensorMap inputs = odd_inputs();
    inputs[name] = tensor;
    return refusal(session, inputs);
  };
  EXPECT_EQ(with("scale", zeros({})), "input 'scale': expected float64[], got float32[]");
  EXPECT_EQ(with("count", zeros({2}, at::kLong)), "input 'count': expected int64[], got int64[2]");
  EXPECT_EQ(with("flag", zeros({}, at::kLong)), "input 'flag': expected bool[], got int64[]");
  EXPECT_TRUE(contains(with("text", zeros({1})), "input 'text': expected a string"));
  EXPECT_TRUE(contains(with("text", tensor_from_string("\xFF")), "input 'text'"));
  TensorMap one = odd_inputs();
  one["count"] = one["count"].reshape({1});  // shape [1] is accepted
  EXPECT_NO_THROW(session.run(one));
}

TEST(session, state_starts_as_zeros_is_kept_and_can_be_given) {
  Session session = open("counter");
  const at::Tensor one = floats({1, 2}, {1, 2});
  EXPECT_TRUE(same(session.step({{"x", one}}).at("sum"), one));
  EXPECT_TRUE(same(session.step({{"x", one}}).at("sum"), one * 2));
  EXPECT_TRUE(same(session.run({{"x", one}}).at("sum"), one));  // run() uses no state
  EXPECT_TRUE(same(session.step({{"x", one}}).at("sum"), one * 3));
  EXPECT_TRUE(same(session.step({{"x", one}, {"h", one * 10}}).at("sum"), one * 11));
  EXPECT_TRUE(same(session.step({{"x", one}}).at("sum"), one * 12));
  const at::Tensor three = zeros({3, 2});  // a given state may have another batch size
  EXPECT_TRUE(same(session.step({{"x", three}, {"h", three}}).at("sum"), three));
  session.reset();
  EXPECT_TRUE(same(session.step({{"x", one}}).at("sum"), one));
}

TEST(session, a_failed_step_keeps_the_state) {
  Session session = open("counter");
  const at::Tensor one = floats({1, 2}, {1, 2});
  session.step({{"x", one}});
  EXPECT_EQ(message_of<InputError>([&] { session.step({{"x", zeros({3, 2})}}); }),
            "input 'h', carried from the step before: expected float32[batch,2] with batch=3, got "
            "float32[1,2]");
  EXPECT_TRUE(same(session.step({{"x", one}}).at("sum"), one * 2));
}

TEST(session, absent_state_starts_absent) {
  const Archive archive(artefact("lstm.pt"));
  ASSERT_EQ(archive.manifest()->methods.at(0).state.at(0).start, State::Start::absent);
  Session session(archive);
  const TensorMap& golden = archive.golden()[0][0].inputs;
  TensorMap x;
  for (const auto& [name, tensor] : golden) {
    if (!session.method().is_state_input(name)) x.emplace(name, tensor);
  }
  const at::Tensor first = session.step(x).at("output");
  const at::Tensor second = session.step(x).at("output");
  EXPECT_FALSE(at::equal(first, second));
  session.reset();
  EXPECT_TRUE(same(session.step(x).at("output"), first));
}

TEST(session, a_models_exception_keeps_its_message) {
  const at::Tensor large = at::ones({1, 3}) * 11;
  EXPECT_EQ(refusal<ModelError>(open("raises"), {{"x", large}}),
            "model 'raises' method 'forward' raised: a value above 10 is forbidden");
  const std::string op = refusal<ModelError>(open("raises", "broken"), {{"x", large}});
  EXPECT_TRUE(contains(op, "model 'raises' method 'broken' raised: mat1 and mat2 shapes"));
  EXPECT_EQ(op.find('\n'), std::string::npos);
  EXPECT_EQ(op.find("Traceback"), std::string::npos);
  TensorMap class16{{"obs", at::ones({1, 510}).to(at::kByte) * 16}};
  EXPECT_TRUE(
      contains(refusal<ModelError>(open("moba"), class16), "model 'moba' method 'forward'"));
}

TEST(session, outputs_must_match_the_manifest) {
  EXPECT_TRUE(contains(refusal<OutputError>(open("liar"), {{"x", zeros({2, 3})}}),
                       "output 'y': expected float64[batch,3], got float32[2,3]"));
  EXPECT_TRUE(contains(refusal<OutputError>(open("tuple_liar"), {{"x", zeros({2, 3})}}),
                       "returned a Tensor where a tuple was promised"));
}

TEST(session, plain_torchscript_by_position) {
  const Session session = open("plain");
  const at::Tensor x = floats({1, 2}, {2});
  EXPECT_TRUE(same(session.run({{"arr_0", x}}).at("output"), x * 2 + 1));
  EXPECT_TRUE(contains(refusal(session, {{"x", x}}), "takes arr_0"));
  EXPECT_TRUE(contains(refusal(session, {}), "missing input 'arr_0'"));

  // Nested types have the names that their position gives them.
  TensorMap flat;
  const std::vector<std::pair<std::string, std::string>> renamed{
      {"pair", "arr_0"}, {"xs", "arr_1"},    {"named", "arr_2"}, {"point", "arr_3"},
      {"text", "arr_4"}, {"count", "arr_5"}, {"scale", "arr_6"}, {"flag", "arr_7"}};
  for (const auto& [name, tensor] : odd_inputs()) {
    for (const auto& [from, to] : renamed) {
      if (name == from || name.starts_with(from + "."))
        flat[to + name.substr(from.size())] = tensor;
    }
  }
  const TensorMap outputs = open("odd_plain").run(flat);
  EXPECT_TRUE(same(outputs.at("output.0"), open("odd").run(odd_inputs()).at("output.0")));
}

TEST(session, inputs_from_json) {
  const Session session = open("odd");
  const json object = json::parse(R"({"text": "héllo", "count": 2, "scale": 0.5, "flag": true,
                                      "xs.0": [1, 2.5], "pair.1": []})");
  TensorMap inputs = session.inputs_from_json(object);
  EXPECT_TRUE(same(inputs["text"], tensor_from_string("héllo")));
  EXPECT_TRUE(same(inputs["xs.0"], floats({1, 2.5F}, {2})));
  EXPECT_EQ(inputs["scale"].scalar_type(), at::kDouble);
  const auto fails = [&](const char* text) {
    return message_of<InputError>([&] { session.inputs_from_json(json::parse(text)); });
  };
  EXPECT_TRUE(contains(fails(R"({"nothing": 1})"), "unknown input 'nothing'"));
  EXPECT_TRUE(contains(fails(R"({"text": 1})"), "input 'text': expected a string"));
  EXPECT_TRUE(contains(fails(R"({"count": 1.5})"), "input 'count': expected int64, got 1.5"));
  EXPECT_TRUE(contains(fails("[1]"), "expected a JSON object"));
  TensorMap guessed = open("plain").inputs_from_json(json::parse(R"({"arr_0": [1.5, 2]})"));
  EXPECT_TRUE(same(guessed["arr_0"], floats({1.5F, 2}, {2})));
}

}  // namespace
}  // namespace torchship::session_test

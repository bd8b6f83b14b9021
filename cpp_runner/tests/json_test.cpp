// Parsing untrusted JSON: what is refused, the order of keys, and that parsing takes linear time.
// If it searched for each key of a very large object, these tests would take hours, and ctest would
// end them after minutes.

#include <torchship/error.h>
#include <torchship/manifest.h>
#include <torchship/tensor_io.h>

#include "support.h"

#include <ATen/ops/full.h>

namespace torchship::json_test {
namespace {

using namespace torchship::testing;

#if defined(__SANITIZE_ADDRESS__)
constexpr int times = 1;  // a sanitised build is slow; the other build tests the time
#else
constexpr int times = 10;
#endif
constexpr int very_many = times * 100'000;

/// `"k0":1,"k1":1,...`
std::string members(int number) {
  std::string text;
  for (int i = 0; i < number; ++i) {
    text += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":1";
  }
  return text;
}

std::string refusal(const std::string& text) {
  return message_of<ArchiveError>([&] { parse_manifest(text); });
}

TEST(json, refusals_name_the_error) {
  const std::string start = "the manifest is no JSON: ";
  EXPECT_EQ(refusal("\xEF\xBB\xBF{}"), start + "a byte order mark");
  EXPECT_EQ(refusal(std::string("{}\0", 3)), start + "a zero byte");
  EXPECT_EQ(refusal(R"({"a":{"b":1,"c":{},"b":2}})"), start + "the key \"b\" occurs twice");
  EXPECT_EQ(refusal(R"([{"\u0061":1,"a":2}])"), start + "the key \"a\" occurs twice");
  EXPECT_EQ(refusal(std::string(101, '[') + std::string(101, ']')),
            start + "nested deeper than 100");
  EXPECT_TRUE(refusal("{\"a\":\n1,}").starts_with(start + "parse error at line 2, column 3: "));
  EXPECT_TRUE(contains(refusal("[1e999]"), "number overflow parsing '1e999'"));
  EXPECT_TRUE(contains(refusal("[\"\xC3\"]"), "ill-formed UTF-8"));
  for (const char* text : {"", "{", "[1", "[1] 2", "{\"a\"}", "nul", "[1,]", "'a'", "[01]"}) {
    EXPECT_TRUE(refusal(text).starts_with(start + "parse error at line 1, ")) << text;
  }
}

TEST(json, the_same_key_in_different_objects_and_a_depth_of_100_are_accepted) {
  EXPECT_EQ(refusal(R"([{"a":{"a":1}},{"a":[{"a":1}]}])"),
            "the manifest: expected an object, got "
            R"([{"a":{"a":1}},{"a":[{"a":1}]}])");
  EXPECT_EQ(
      refusal(std::string(100, '[') + std::string(100, ']')),
      "the manifest: expected an object, got " + std::string(100, '[') + std::string(100, ']'));
}

TEST(json, an_object_with_very_many_keys) {
  const std::string text = "{\"format\":2," + members(very_many);
  EXPECT_THROW(parse_manifest(text + "}"), FormatError);
  EXPECT_EQ(refusal(text + ",\"k7\":1}"), "the manifest is no JSON: the key \"k7\" occurs twice");
}

TEST(json, a_manifest_with_very_many_entries) {
  std::string inputs;
  std::string states;
  std::string outputs;
  std::string tolerances;
  std::string operators;
  std::string labels;
  std::string golden;
  const auto add = [](std::string& list, const std::string& item) {
    list += (list.empty() ? "" : ",") + item;
  };
  for (int i = 0; i < times * 10'000; ++i) {
    const std::string k = std::to_string(i);
    const std::string in = R"({"kind":"tensor","name":"x)" + k + R"(","dtype":"int8","shape":[]})";
    const std::string out = R"({"kind":"tensor","name":"y)" + k + R"(","dtype":"int8","shape":[]})";
    add(inputs, R"({"name":"x)" + k + R"(","required":true,"value":)" + in + "}");
    add(outputs, out);
    add(states, R"({"input":"x)" + k + R"(","output":"y)" + k + R"(","start":"zeros"})");
    add(tolerances, "\"y" + k + R"(":{"atol":0,"rtol":0})");
    add(operators, R"({"name":"a::b)" + k + R"(","library":"ab"})");
    add(labels, "\"y" + k + "\":[]");
    add(golden, R"({"name":"g","method":"forward","steps":1})");
  }
  const Manifest manifest = parse_manifest(
      R"({"format":1,"name":"n","version":"1","source":{"factory":"a:b"},"torch":"2.13",)"
      R"("mode":"script","parameters":0,"methods":{"forward":{"inputs":[)" +
      inputs + R"(],"outputs":{"kind":"tuple","items":[)" + outputs + R"(]},"state":[)" + states +
      R"(],"tolerances":{)" + tolerances + R"(}}},"golden":[)" + golden + R"(],"labels":{)" +
      labels + R"(},"custom_ops":[)" + operators + R"(],"records":{}})");
  EXPECT_EQ(manifest.methods.at(0).state.size(), times * 10'000U);
  EXPECT_EQ(manifest.labels.size(), times * 10'000U);
}

TEST(json, a_long_key_is_not_copied_for_every_field_below_it) {
  // A copy of a megabyte for each of 100,000 fields would exceed the memory of the machine.
  const std::string key(1'000'000, 'x');
  EXPECT_TRUE(refusal(R"({"format":1,"name":"n","version":"1","source":{"factory":"a:b"},)"
                      R"("torch":"2.13","mode":"script","parameters":0,"methods":{")" +
                      key + "\":{" + members(100'000) + "}}}")
                  .ends_with("xxx.k0'"));
}

TEST(json, safetensors_with_very_many_tensors) {
  const std::string name = std::string(100, 'x');
  TensorMap tensors;
  for (int i = 0; i < times * 20'000; ++i) {
    tensors.emplace(name + std::to_string(i), at::full({}, i % 100, at::kByte));
  }
  const TensorMap back = read_safetensors(write_safetensors(tensors));
  ASSERT_EQ(back.size(), tensors.size());
  EXPECT_TRUE(same(back.at(name + "19999"), at::full({}, 99, at::kByte)));
}

}  // namespace
}  // namespace torchship::json_test

#include <torchship/error.h>
#include <torchship/manifest.h>

#include "support.h"

#include <nlohmann/json.hpp>

namespace torchship::manifest_test {
namespace {

using namespace torchship::testing;
using nlohmann::json;

json tensor(const char* name, json shape) {
  return {{"kind", "tensor"}, {"name", name}, {"dtype", "float32"}, {"shape", std::move(shape)}};
}

json good() {
  json forward;
  forward["inputs"] = json::array(
      {{{"name", "x"}, {"required", true}, {"value", tensor("x", {"batch", 3, nullptr})}},
       {{"name", "h"},
        {"required", true},
        {"value", {{"kind", "optional"}, {"item", tensor("h", {"batch", 2})}}}}});
  forward["outputs"] = {{"kind", "tuple"},
                        {"items", {tensor("y", {"batch", 2}), tensor("next", {"batch", 2})}}};
  forward["state"] = json::array({{{"input", "h"}, {"output", "next"}, {"start", "zeros"}}});
  forward["tolerances"] = {{"y", {{"atol", 1e-5}, {"rtol", 0}}},
                           {"next", {{"atol", 0}, {"rtol", 1.3e-6}}}};
  return {{"format", 1},
          {"name", "m"},
          {"version", "2"},
          {"description", "d"},
          {"source",
           {{"factory", "a:b"},
            {"kwargs", {{"n", 1}}},
            {"git_commit", nullptr},
            {"compiled", json::array({"", "body"})}}},
          {"torch", "2.13.0"},
          {"mode", "script"},
          {"parameters", 7},
          {"methods", {{"forward", forward}}},
          {"golden", json::array({{{"name", "one"}, {"method", "forward"}, {"steps", 2}}})},
          {"labels", {{"y", {"a", "b"}}}},
          {"metrics", {{"accuracy", 0.5}}},
          {"custom_ops", json::array({{{"name", "a::b"}, {"library", "ab"}}})},
          {"records", {{"data.pkl", std::string(64, 'a')}}}};
}

TEST(manifest, all_fields_are_parsed) {
  const Manifest manifest = parse_manifest(good().dump());
  EXPECT_EQ(manifest.name, "m");
  EXPECT_EQ(manifest.version, "2");
  EXPECT_EQ(manifest.parameters, 7);
  EXPECT_EQ(manifest.source.kwargs, R"({"n":1})");
  EXPECT_FALSE(manifest.source.git_commit);
  EXPECT_EQ(manifest.source.compiled, (std::vector<std::string>{"", "body"}));
  const Method* forward = manifest.find_method("forward");
  ASSERT_NE(forward, nullptr);
  EXPECT_EQ(manifest.find_method("act"), nullptr);
  EXPECT_EQ(describe(forward->inputs[0].value), "float32[batch,3,?]");
  EXPECT_TRUE(forward->is_state_input("h"));
  EXPECT_TRUE(forward->is_state_output("next"));
  EXPECT_FALSE(forward->is_state_output("y"));
  EXPECT_EQ(forward->tolerances.at("next").rtol, 1.3e-6);
  EXPECT_EQ(manifest.golden.at(0).steps, 2);
  EXPECT_EQ(manifest.custom_ops.at(0).name, "a::b");
  EXPECT_EQ(manifest.custom_ops.at(0).library, "ab");
  EXPECT_EQ(manifest.labels.at("y"), (std::vector<std::string>{"a", "b"}));
}

TEST(manifest, a_newer_format_is_refused_before_anything_else) {
  const std::string refusal =
      message_of<FormatError>([] { parse_manifest(R"({"format": 2, "name": 5})"); });
  EXPECT_TRUE(contains(refusal, "format 2"));
  EXPECT_TRUE(contains(refusal, "up to 1"));
  for (const char* text : {R"({})", R"({"format": 0})", R"({"format": -1})", R"({"format": 1.5})",
                           R"({"format": "1"})", R"({"format": true})"}) {
    EXPECT_TRUE(contains(message_of<ArchiveError>([&] { parse_manifest(text); }), "format"))
        << text;
  }
}

TEST(manifest, invalid_json) {
  for (const std::string& text : {std::string("{"), std::string("\xFF"), std::string(100000, '['),
                                  std::string("[]"), std::string(R"({"format":1,"format":1})")}) {
    EXPECT_THROW(parse_manifest(text), ArchiveError) << text;
  }
  EXPECT_TRUE(contains(message_of<ArchiveError>([] { parse_manifest(R"({"a":1,"a":2})"); }),
                       "\"a\" occurs twice"));
}

/// One wrong field, and what the message must contain.
struct Wrong {
  const char* pointer;
  json value;
  const char* named;
};

TEST(manifest, every_wrong_field_is_named) {
  const std::vector<Wrong> wrongs{
      {"/name", 7, "'name'"},
      {"/version", json::array(), "'version'"},
      {"/source", "x", "'source'"},
      {"/source/factory", nullptr, "'source.factory'"},
      {"/mode", "eager", "'mode'"},
      {"/parameters", -1, "'parameters'"},
      {"/methods", json::object(), "'methods'"},
      {"/methods/forward/inputs/0/name", 1, "'methods.forward.inputs[0].name'"},
      {"/methods/forward/inputs/0/required", 1, "'methods.forward.inputs[0].required'"},
      {"/methods/forward/inputs/0/value/kind", "blob", "unknown kind 'blob'"},
      {"/methods/forward/inputs/0/value/dtype", "float99", "unknown dtype 'float99'"},
      {"/methods/forward/inputs/0/value/shape/0", true, "value.shape[0]'"},
      {"/methods/forward/inputs/0/value/shape/0", -3, "value.shape[0]'"},
      {"/methods/forward/inputs/0/value/shape/0", "", "value.shape[0]'"},
      {"/methods/forward/inputs/0/value/name", "h", "'h' occurs twice"},
      {"/methods/forward/outputs/items/0/name", "next", "'next' occurs twice"},
      {"/methods/forward/outputs/items/0", {{"kind", "int"}, {"name", "y"}}, "'y' is no tensor"},
      {"/methods/forward/outputs/kind", "dict", "'methods.forward.outputs.keys'"},
      {"/methods/forward/tolerances/y/atol", -1, "tolerances.y.atol'"},
      {"/methods/forward/tolerances/y/atol", "0", "tolerances.y.atol'"},
      {"/methods/forward/tolerances/z", {{"atol", 0}, {"rtol", 0}}, "'z', which is no output"},
      {"/methods/forward/tolerances", json::object(), "'y' has no tolerance"},
      {"/methods/forward/state/0/input", "q", "no such leaf 'q'"},
      {"/methods/forward/state/0/output", "q", "no such leaf 'q'"},
      {"/methods/forward/state/0/start", "ones", "'ones'"},
      {"/golden/0/steps", 0, "'golden[0].steps'"},
      {"/golden/0/method", "act", "no method 'act'"},
      {"/labels", {{"q", json::array({"a"})}}, "no output 'q'"},
      {"/metrics", {{"accuracy", "high"}}, "'metrics.accuracy'"},
      {"/custom_ops", json::array({1}), "'custom_ops[0]'"},
      {"/custom_ops/0/name", "b", "'custom_ops[0].name'"},
      {"/custom_ops/0/library", "../ab", "'custom_ops[0].library'"},
      {"/records/data.pkl", "abc", "'records.data.pkl'"},
  };
  for (const Wrong& wrong : wrongs) {
    json document = good();
    document[json::json_pointer(wrong.pointer)] = wrong.value;
    const std::string refusal = message_of<ArchiveError>([&] { parse_manifest(document.dump()); });
    EXPECT_TRUE(contains(refusal, wrong.named)) << wrong.pointer;
  }
}

TEST(manifest, state_that_cannot_start_is_refused) {
  json absent = good();
  absent["methods"]["forward"]["state"][0]["start"] = "absent";
  EXPECT_NO_THROW(parse_manifest(absent.dump()));
  absent["methods"]["forward"]["state"][0]["input"] = "x";
  EXPECT_THROW(parse_manifest(absent.dump()), ArchiveError);  // x is required
  json zeros = good();
  zeros["methods"]["forward"]["state"][0]["input"] = "x";
  EXPECT_THROW(parse_manifest(zeros.dump()), ArchiveError);  // x has a dimension of any size
}

TEST(manifest, fields_are_required_unless_optional) {
  const json document = good();
  for (const auto& [key, value] : document.items()) {
    json without = document;
    without.erase(key);
    const bool optional =
        key == "description" || key == "labels" || key == "metrics" || key == "custom_ops";
    if (optional) {
      EXPECT_NO_THROW(parse_manifest(without.dump())) << key;
    } else {
      EXPECT_TRUE(contains(message_of<ArchiveError>([&] { parse_manifest(without.dump()); }),
                           "no field '" + key + "'"));
    }
  }
}

TEST(manifest, nodes_nested_too_deeply) {
  json node = tensor("x", {1});
  for (int i = 0; i < 100; ++i) node = {{"kind", "optional"}, {"item", node}};
  json document = good();
  document["methods"]["forward"]["inputs"][0]["value"] = node;
  EXPECT_THROW(parse_manifest(document.dump()), ArchiveError);
}

TEST(manifest, a_star_matches_one_index_or_key) {
  EXPECT_TRUE(matches("xs.*", "xs.0"));
  EXPECT_TRUE(matches("xs.*.*.a", "xs.0.key.a"));
  EXPECT_TRUE(matches("x", "x"));
  EXPECT_FALSE(matches("xs.*", "xs."));
  EXPECT_FALSE(matches("xs.*", "xs.0.1"));
  EXPECT_FALSE(matches("xs.*", "xs"));
  EXPECT_FALSE(matches("xs.*.a", "xs.0.b"));
  EXPECT_FALSE(matches("x", "xs"));
}

}  // namespace
}  // namespace torchship::manifest_test

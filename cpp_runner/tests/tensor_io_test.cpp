#include <torchship/error.h>
#include <torchship/tensor_io.h>

#include "support.h"

#include <ATen/ops/arange.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>

namespace torchship::tensor_io_test {
namespace {

using namespace torchship::testing;
using nlohmann::json;

at::Tensor grid() {
  return at::arange(6).to(at::kFloat).reshape({2, 3});
}

at::Tensor npy(const std::string& name) {
  return read_npy(bytes_of(artefact(name + ".npy")));
}

TEST(tensor_io, npy_of_every_layout_and_version) {
  for (const char* name : {"c_order", "fortran", "version2", "version3"}) {
    EXPECT_TRUE(same(npy(name), grid())) << name;
  }
  EXPECT_TRUE(same(npy("fortran_3d"), at::arange(24).reshape({2, 3, 4})));
  EXPECT_TRUE(npy("fortran_3d").is_contiguous());
  EXPECT_TRUE(same(npy("scalar"), at::tensor(2.5, at::kDouble).reshape({})));
  EXPECT_TRUE(same(npy("vector"), at::arange(5).to(at::kUInt16)));
  EXPECT_EQ(npy("empty").sizes(), (std::vector<std::int64_t>{0, 3}));
  EXPECT_TRUE(same(npy("half"), at::tensor({0.5, -2.0}).to(at::kHalf)));
  EXPECT_TRUE(same(npy("truth"), at::tensor({1, 0}).to(at::kBool)));
}

TEST(tensor_io, npy_of_one_string_is_its_utf8) {
  EXPECT_TRUE(same(npy("text"), tensor_from_string("grüße 🚢")));
}

TEST(tensor_io, npy_refusals_name_the_error) {
  const auto refusal = [](const char* name) { return message_of<InputError>([&] { npy(name); }); };
  EXPECT_TRUE(contains(refusal("big_endian"), "big-endian"));
  EXPECT_TRUE(contains(refusal("objects"), "Python objects"));
  EXPECT_TRUE(contains(refusal("texts"), "only a single string"));
  EXPECT_TRUE(contains(refusal("complex"), "'<c8' is not supported"));
  EXPECT_TRUE(contains(refusal("records"), "structured"));
}

TEST(tensor_io, npy_is_written_byte_for_byte_as_numpy_does) {
  for (const char* name : {"c_order", "scalar", "vector", "empty", "truth", "half"}) {
    EXPECT_EQ(write_npy(npy(name)), bytes_of(artefact(std::string(name) + ".npy"))) << name;
  }
  EXPECT_THROW(write_npy(grid().to(at::kBFloat16)), EncodingError);
}

TEST(tensor_io, truncated_or_changed_npy_never_crashes) {
  const std::string good = bytes_of(artefact("c_order.npy"));
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_THROW(read_npy(std::string_view(good).substr(0, length)), InputError) << length;
  }
  EXPECT_THROW(read_npy(good + "x"), InputError);
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      try {
        EXPECT_LE(read_npy(bad).numel(), 24);
      } catch (const InputError&) {
      }
    }
  }
}

TEST(tensor_io, npz_stored_and_deflated) {
  TensorMap stored = read_npz(bytes_of(artefact("stored.npz")));
  EXPECT_EQ(stored.size(), 2U);
  EXPECT_TRUE(same(stored["x"], grid()));
  TensorMap deflated = read_npz(bytes_of(artefact("deflated.npz")));
  EXPECT_TRUE(same(deflated["x"], grid().repeat({100, 1})));
  EXPECT_TRUE(same(deflated["y"], at::arange(5).to(at::kUInt16)));
}

TEST(tensor_io, npz_round_trip) {
  const TensorMap tensors{{"a", grid()}, {"hidden.0", at::arange(3)}};
  TensorMap back = read_npz(write_npz(tensors));
  EXPECT_EQ(back.size(), 2U);
  EXPECT_TRUE(same(back["a"], grid()));
  EXPECT_TRUE(same(back["hidden.0"], at::arange(3)));
  EXPECT_EQ(write_npz(tensors), write_npz(tensors));
  EXPECT_THROW(write_npz({}), EncodingError);
}

TEST(tensor_io, npz_damage_is_refused) {
  std::string bad = bytes_of(artefact("deflated.npz"));
  bad[100] = static_cast<char>(bad[100] ^ 1);
  EXPECT_TRUE(contains(message_of<InputError>([&] { read_npz(bad); }), "damaged"));
  EXPECT_THROW(read_npz("junk"), InputError);
  EXPECT_THROW(read_npz(bytes_of(artefact("plain.pt"))), InputError);  // a zip that is not an npz
}

TEST(tensor_io, safetensors_of_every_dtype) {
  TensorMap every = read_safetensors(bytes_of(artefact("every.safetensors")));
  EXPECT_EQ(every.size(), 13U);
  for (const auto& [name, tensor] : every) {
    EXPECT_EQ(tensor.sizes(), (std::vector<std::int64_t>{1, 3}));
    EXPECT_TRUE(same(tensor.to(at::kLong), at::tensor({1, 0, 1}).to(at::kLong).reshape({1, 3})));
  }
  TensorMap back = read_safetensors(write_safetensors(every));
  ASSERT_EQ(back.size(), every.size());
  for (const auto& [name, tensor] : every) EXPECT_TRUE(same(back[name], tensor)) << name;
  TensorMap by_hand = read_safetensors(bytes_of(artefact("by_hand.safetensors")));
  EXPECT_TRUE(same(by_hand["x"], floats({1.5F, -2.0F}, {2})));
}

TEST(tensor_io, safetensors_with_wrong_numbers) {
  const auto file = [](std::uint64_t length, const std::string& header, std::size_t data) {
    std::string bytes(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
    return bytes + header + std::string(data, 'x');
  };
  const std::string good = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_NO_THROW(read_safetensors(file(good.size(), good, 8)));
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{good.size() - 1}, std::uint64_t{good.size() + 9},
        std::uint64_t{1} << 63U, std::numeric_limits<std::uint64_t>::max()}) {
    EXPECT_THROW(read_safetensors(file(length, good, 8)), InputError) << length;
  }
  EXPECT_THROW(read_safetensors(file(good.size(), good, 7)), InputError);
  EXPECT_THROW(read_safetensors(file(good.size(), good, 9)), InputError);
  for (const char* header :
       {"[]", "{\"x\":1}", R"({"x":{"dtype":"F32","shape":[2]}})",
        R"({"x":{"dtype":"F3","shape":[2],"data_offsets":[0,8]}})",
        R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
        R"({"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
        R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})",
        R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
        R"({"x":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,8]}})",
        R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{}})",
        R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
        R"("y":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"}) {
    const std::string text = header;
    EXPECT_THROW(read_safetensors(file(text.size(), text, 8)), InputError) << text;
  }
}

TEST(tensor_io, json_to_tensors) {
  const auto parse = [](const char* text, at::ScalarType dtype) {
    return tensor_from_json(json::parse(text), dtype, "input 'x'");
  };
  EXPECT_TRUE(same(parse("[[0,1,2],[3,4,5]]", at::kFloat), grid()));
  EXPECT_TRUE(same(parse("[0.1]", at::kFloat), floats({0.1F}, {1})));
  EXPECT_TRUE(same(parse("3", at::kLong), at::tensor(3, at::kLong).reshape({})));
  EXPECT_TRUE(same(parse("[true,false]", at::kBool), at::tensor({1, 0}).to(at::kBool)));
  EXPECT_EQ(parse("[18446744073709551615]", at::kUInt64).item().toUInt64(),
            std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(parse("[[],[]]", at::kFloat).sizes(), (std::vector<std::int64_t>{2, 0}));
  for (const auto& [text, dtype] :
       std::vector<std::pair<const char*, at::ScalarType>>{{"[256]", at::kByte},
                                                           {"[-1]", at::kByte},
                                                           {"[1.5]", at::kLong},
                                                           {"[1.0]", at::kInt},
                                                           {"[true]", at::kFloat},
                                                           {"[1]", at::kBool},
                                                           {"[1e300]", at::kFloat},
                                                           {"[70000.0]", at::kHalf},
                                                           {"[\"a\"]", at::kFloat},
                                                           {"[[1],[1,2]]", at::kLong},
                                                           {"[1,[2]]", at::kLong},
                                                           {"[[1],2]", at::kLong},
                                                           {"null", at::kFloat},
                                                           {"[128]", at::kChar},
                                                           {"[1e19]", at::kLong}}) {
    EXPECT_THROW(parse(text, dtype), InputError) << text;
  }
  EXPECT_TRUE(contains(message_of<InputError>([&] { parse("[256]", at::kByte); }),
                       "input 'x': expected uint8, got 256"));
}

TEST(tensor_io, json_strings_for_nan_and_infinity) {
  const auto parse = [](const char* text, const auto&... dtype) {
    return tensor_from_json(json::parse(text), dtype..., "input 'x'");
  };
  const char* text = R"([["NaN", 1], ["Infinity", "-Infinity"]])";
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const at::Tensor tensor = parse(text, dtype).to(at::kDouble).flatten();
    EXPECT_TRUE(std::isnan(tensor[0].item<double>()));
    EXPECT_EQ(tensor[1].item<double>(), 1);
    EXPECT_EQ(tensor[2].item<double>(), std::numeric_limits<double>::infinity());
    EXPECT_EQ(tensor[3].item<double>(), -std::numeric_limits<double>::infinity());
  }
  EXPECT_EQ(parse(text).scalar_type(), at::kFloat);
  EXPECT_EQ(parse("\"NaN\"", at::kDouble).dim(), 0);
  // Only these exact strings are accepted, and only for floats.
  for (const char* other :
       {"[\"nan\"]", "[\"NaN \"]", "[\"+Infinity\"]", "[\"1\"]", "[\"\"]", "[null]"}) {
    EXPECT_THROW(parse(other, at::kFloat), InputError) << other;
  }
  EXPECT_THROW(parse("[\"NaN\"]", at::kLong), InputError);
  EXPECT_THROW(parse("[1, true, \"NaN\"]", at::kBool), InputError);
}

TEST(tensor_io, a_refused_nan_is_answered_with_advice) {
  const std::string ways =
      R"(; for a NaN or an infinity send it as the string "NaN", "Infinity" or "-Infinity", or )"
      "the tensor in a .npz or .safetensors file";
  const auto refusal = [](const char* text, at::ScalarType dtype) {
    return message_of<InputError>([&] { tensor_from_json(json::parse(text), dtype, "x"); });
  };
  for (const char* meant : {R"("nan")", R"(" -inf")", R"("INFINITY")", R"("+inf")", "null"}) {
    EXPECT_EQ(refusal(meant, at::kFloat), std::string("x: expected float32, got ") + meant + ways);
  }
  EXPECT_EQ(refusal(R"("information")", at::kFloat), R"(x: expected float32, got "information")");
  EXPECT_EQ(refusal(R"("NaN")", at::kLong), R"(x: expected int64, got "NaN")");
}

TEST(tensor_io, json_round_trip_keeps_every_bit) {
  const at::Tensor single = floats({0.1F, 1.0F / 3, 1e-45F, 3.3e38F, -0.0F}, {5});
  const at::Tensor wide = at::tensor({0.1, 1.0 / 3, 5e-324, 1.7e308}, at::kDouble);
  for (const at::Tensor& tensor : {single, wide, single.to(at::kBFloat16)}) {
    const json back = json::parse(tensor_to_json(tensor, "output").dump());
    const at::Tensor again = tensor_from_json(back, tensor.scalar_type(), "output");
    EXPECT_EQ(std::memcmp(again.const_data_ptr(), tensor.const_data_ptr(), tensor.nbytes()), 0);
  }
}

TEST(tensor_io, json_cannot_represent_nan) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto refusal = [](float value) {
    return message_of<EncodingError>([&] { tensor_to_json(floats({value}, {1}), "output 'y'"); });
  };
  EXPECT_TRUE(contains(refusal(inf - inf), "output 'y' holds NaN"));
  EXPECT_TRUE(contains(refusal(-inf), "output 'y' holds infinity"));
}

TEST(tensor_io, files_by_their_extension) {
  const TemporaryFolder folder;
  for (const char* name : {"a.npz", "a.npy", "a.safetensors"}) {
    write_tensors(folder / name, {{"x", grid()}});
    TensorMap back = read_tensors(folder / name, "x");
    EXPECT_TRUE(same(back["x"], grid())) << name;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / ""), {}),
            3);  // no temporary files remain
  EXPECT_THROW(write_tensors(folder / "a.txt", {{"x", grid()}}), UsageError);
  EXPECT_THROW(write_tensors(folder / "a.npy", {{"x", grid()}, {"y", grid()}}), UsageError);
  EXPECT_THROW(write_tensors(folder / "no/a.npz", {{"x", grid()}}), WriteError);
  EXPECT_THROW(read_tensors(folder / "gone.npz", ""), InputError);
  EXPECT_THROW(read_tensors(folder / "a.txt", ""), UsageError);
}

TEST(tensor_io, json_numbers_are_rounded_once) {
  const double tiny = std::ldexp(1.0, -40);  // too small for a float beside 1
  const auto read = [](double value, at::ScalarType dtype) {
    return tensor_from_json(nlohmann::json(value), dtype, "x").item<double>();
  };
  const double half = std::ldexp(1.0, -10);  // between 1 and the next float16
  EXPECT_EQ(read(1 + half / 2, at::kHalf), 1);
  EXPECT_EQ(read(1 + half / 2 + tiny, at::kHalf), 1 + half);
  EXPECT_EQ(read(-1 - half / 2 - tiny, at::kHalf), -1 - half);
  EXPECT_EQ(read(1 + 3 * half / 2 - tiny, at::kHalf), 1 + half);
  const double brain = std::ldexp(1.0, -7);
  EXPECT_EQ(read(1 + brain / 2 + tiny, at::kBFloat16), 1 + brain);
  EXPECT_EQ(read(1 + 3 * brain / 2 - tiny, at::kBFloat16), 1 + brain);
  EXPECT_EQ(read(65519.999999999, at::kHalf), 65504);
  EXPECT_THROW(read(65520, at::kHalf), InputError);
  EXPECT_THROW(read(1e300, at::kBFloat16), InputError);
  EXPECT_EQ(read(1e-300, at::kHalf), 0);
  EXPECT_EQ(read(0.1, at::kFloat), static_cast<double>(0.1F));
}

}  // namespace
}  // namespace torchship::tensor_io_test

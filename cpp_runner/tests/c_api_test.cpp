// The memory that the C ABI lends and writes, tested in C++ so that the sanitizers see it. Outputs
// and messages are tested from Python (tests/parity/test_c_abi.py).

#include <torchship/session.h>
#include <torchship/torchship.h>

#include "support.h"

#include <ATen/ops/zeros.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace torchship::c_api_test {
namespace {

using namespace torchship::testing;

struct Close {
  void operator()(torchship_archive* archive) const { torchship_archive_close(archive); }
  void operator()(torchship_session* session) const { torchship_session_close(session); }
};
using OpenArchive = std::unique_ptr<torchship_archive, Close>;
using OpenSession = std::unique_ptr<torchship_session, Close>;

OpenArchive open_moba() {
  torchship_archive* archive = nullptr;
  EXPECT_EQ(torchship_archive_open(artefact("moba.pt").c_str(), nullptr, &archive), TORCHSHIP_OK)
      << torchship_last_message();
  return OpenArchive(archive);
}

OpenSession session_of(const OpenArchive& archive) {
  torchship_session* session = nullptr;
  EXPECT_EQ(torchship_session_open(archive.get(), nullptr, &session), TORCHSHIP_OK)
      << torchship_last_message();
  return OpenSession(session);
}

/// An observation in a heap block of exactly its size, so that the sanitizers see reads beyond it.
struct Observation {
  explicit Observation(std::int64_t batch, int value)
      : shape{batch, 510}, bytes(static_cast<std::size_t>(batch) * 510) {
    for (std::size_t i = 0; i < bytes.size(); i += 7) {
      bytes[i] = static_cast<std::uint8_t>((static_cast<std::size_t>(value) + i) % 6);
    }
  }

  torchship_tensor tensor() const {
    return {.name = "obs",
            .dtype = TORCHSHIP_UINT8,
            .rank = 2,
            .shape = shape.data(),
            .strides = nullptr,
            .data = bytes.data()};
  }

  std::array<std::int64_t, 2> shape;
  std::vector<std::uint8_t> bytes;
};

std::vector<float> floats_of(const torchship_tensor& tensor) {
  std::size_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= static_cast<std::size_t>(tensor.shape[i]);
  std::vector<float> values(count);
  std::memcpy(values.data(), tensor.data, count * sizeof(float));
  return values;
}

/// All outputs of a step, concatenated. The input's memory is freed before the outputs are read.
std::vector<float> stepped(const OpenSession& session, std::int64_t batch, int value) {
  const torchship_tensor* outputs = nullptr;
  std::size_t count = 0;
  {
    const Observation observation(batch, value);
    const torchship_tensor input = observation.tensor();
    EXPECT_EQ(torchship_session_step(session.get(), &input, 1, &outputs, &count), TORCHSHIP_OK)
        << torchship_last_message();
  }
  std::vector<float> values;
  for (std::size_t i = 0; i < count; ++i) {
    const std::vector<float> more = floats_of(outputs[i]);
    values.insert(values.end(), more.begin(), more.end());
  }
  return values;
}

TEST(c_api, same_outputs_as_the_cpp_library) {
  const OpenArchive archive = open_moba();
  const OpenSession session = session_of(archive);
  Session expected(Archive::open(artefact("moba.pt")));
  for (int step = 0; step < 4; ++step) {
    const Observation observation(2, step);
    at::Tensor obs = at::zeros({2, 510}, at::TensorOptions(at::kByte));
    std::memcpy(obs.mutable_data_ptr(), observation.bytes.data(), observation.bytes.size());
    std::vector<float> values;
    for (const auto& [name, tensor] : expected.step({{"obs", obs}})) {
      const auto* data = tensor.const_data_ptr<float>();
      values.insert(values.end(), data, data + tensor.numel());
    }
    EXPECT_EQ(stepped(session, 2, step), values);
  }
}

TEST(c_api, lent_outputs_are_valid_until_the_next_call) {
  OpenArchive archive = open_moba();
  const OpenSession session = session_of(archive);
  archive.reset();
  const torchship_tensor* outputs = nullptr;
  std::size_t count = 0;
  const Observation observation(3, 1);
  const torchship_tensor obs = observation.tensor();
  ASSERT_EQ(torchship_session_run(session.get(), &obs, 1, &outputs, &count), TORCHSHIP_OK);
  ASSERT_EQ(count, 4U);
  // The lent outputs c and h are inputs of the next call.
  for (int step = 0; step < 3; ++step) {
    const std::array<torchship_tensor, 3> inputs{obs, outputs[0], outputs[1]};
    ASSERT_EQ(torchship_session_run(session.get(), inputs.data(), 3, &outputs, &count),
              TORCHSHIP_OK)
        << torchship_last_message();
    EXPECT_EQ(floats_of(outputs[0]).size(), 3U * 128);
  }
}

TEST(c_api, writes_within_the_buffers) {
  const OpenArchive archive = open_moba();
  const OpenSession lending = session_of(archive);
  const OpenSession filling = session_of(archive);
  const std::array<std::int64_t, 2> state_shape{2, 128};
  const std::array<std::int64_t, 2> value_shape{2, 1};
  for (int step = 0; step < 3; ++step) {
    const std::vector<float> expected = stepped(lending, 2, step);  // c, h, logits, value
    // The buffers have exactly the outputs' sizes, so that the sanitizers see a byte too many.
    std::vector<float> h(256);
    std::vector<float> value(2);
    const std::array<torchship_buffer, 2> buffers{{{.name = "value",
                                                    .dtype = TORCHSHIP_FLOAT32,
                                                    .rank = 2,
                                                    .shape = value_shape.data(),
                                                    .data = value.data()},
                                                   {.name = "h",
                                                    .dtype = TORCHSHIP_FLOAT32,
                                                    .rank = 2,
                                                    .shape = state_shape.data(),
                                                    .data = h.data()}}};
    const Observation observation(2, step);
    const torchship_tensor obs = observation.tensor();
    ASSERT_EQ(torchship_session_step_into(filling.get(), &obs, 1, buffers.data(), buffers.size()),
              TORCHSHIP_OK)
        << torchship_last_message();
    EXPECT_TRUE(std::equal(h.begin(), h.end(), expected.begin() + 256));
    EXPECT_TRUE(std::equal(value.begin(), value.end(), expected.end() - 2));
  }
}

TEST(c_api, state_as_bytes) {
  const OpenArchive archive = open_moba();
  const OpenSession first = session_of(archive);
  const OpenSession second = session_of(archive);
  stepped(first, 2, 0);
  const void* bytes = nullptr;
  std::size_t size = 0;
  ASSERT_EQ(torchship_session_save_state(first.get(), &bytes, &size), TORCHSHIP_OK);
  const std::vector<char> kept(static_cast<const char*>(bytes),
                               static_cast<const char*>(bytes) + size);
  for (std::size_t cut = 0; cut < size; cut += 97) {
    const std::vector<char> part(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(cut));
    EXPECT_EQ(torchship_session_load_state(second.get(), part.data() == nullptr ? "" : part.data(),
                                           part.size()),
              TORCHSHIP_BAD_INPUT);
  }
  ASSERT_EQ(torchship_session_load_state(second.get(), kept.data(), kept.size()), TORCHSHIP_OK);
  EXPECT_EQ(stepped(first, 2, 1), stepped(second, 2, 1));
  const std::array<std::int64_t, 1> rows{1};
  EXPECT_EQ(torchship_session_reset_rows(first.get(), rows.data(), 1), TORCHSHIP_OK);
  EXPECT_NE(stepped(first, 2, 2), stepped(second, 2, 2));
}

TEST(c_api, a_failed_call_lends_nothing_and_keeps_the_state) {
  const OpenArchive archive = open_moba();
  const OpenSession session = session_of(archive);
  const OpenSession other = session_of(archive);
  stepped(session, 1, 0);
  stepped(other, 1, 0);
  Observation wrong(1, 0);
  wrong.shape[1] = 509;
  const torchship_tensor input = wrong.tensor();
  const torchship_tensor* outputs = &input;
  std::size_t count = 9;
  EXPECT_EQ(torchship_session_step(session.get(), &input, 1, &outputs, &count),
            TORCHSHIP_BAD_INPUT);
  EXPECT_EQ(outputs, nullptr);
  EXPECT_EQ(count, 0U);
  EXPECT_STREQ(torchship_last_message(),
               "input 'obs': expected uint8[batch,510], got uint8[1,509]");
  EXPECT_EQ(stepped(session, 1, 1), stepped(other, 1, 1));
}

TEST(c_api, reads_options_only_up_to_their_size) {
  // As in a program compiled with the first header. The heap block ends where that struct ends.
  constexpr std::size_t first = offsetof(torchship_options, trusted_keys_pem);
  torchship_options newest = TORCHSHIP_OPTIONS;
  newest.size = first;
  const std::unique_ptr<void, decltype(&std::free)> older(std::malloc(first), std::free);
  std::memcpy(older.get(), &newest, first);
  torchship_archive* archive = nullptr;
  EXPECT_EQ(torchship_archive_open(artefact("moba.pt").c_str(),
                                   static_cast<const torchship_options*>(older.get()), &archive),
            TORCHSHIP_OK)
      << torchship_last_message();
  torchship_archive_close(archive);
}

TEST(c_api, keeps_no_pointer_to_an_archive_in_memory) {
  auto bytes = std::make_unique<std::string>(bytes_of(artefact("moba.pt")));
  torchship_archive* archive = nullptr;
  ASSERT_EQ(torchship_archive_open_memory(bytes->data(), bytes->size(), nullptr, nullptr, 0,
                                          nullptr, &archive),
            TORCHSHIP_OK)
      << torchship_last_message();
  bytes.reset();
  const OpenArchive opened(archive);
  EXPECT_EQ(torchship_archive_verify(archive), TORCHSHIP_OK) << torchship_last_message();
  stepped(session_of(opened), 1, 0);
}

TEST(c_api, sessions_on_several_threads) {
  const OpenArchive archive = open_moba();
  std::vector<std::vector<float>> results(4);
  {
    std::vector<std::jthread> threads;
    for (std::vector<float>& result : results) {
      threads.emplace_back([&archive, &result] {
        const OpenSession session = session_of(archive);
        const char* json = nullptr;
        EXPECT_EQ(torchship_archive_describe(archive.get(), &json), TORCHSHIP_OK);
        for (int step = 0; step < 4; ++step) result = stepped(session, 1, step);
        torchship_session* none = nullptr;
        EXPECT_EQ(torchship_session_open(archive.get(), "think", &none), TORCHSHIP_BAD_USAGE);
        EXPECT_NE(std::string(torchship_last_message()).find("'think'"), std::string::npos);
      });
    }
  }
  for (const std::vector<float>& result : results) EXPECT_EQ(result, results.front());
}

}  // namespace
}  // namespace torchship::c_api_test

#include <torchship/error.h>
#include <torchship/runtime.h>
#include <torchship/session.h>

#include "support.h"

#include <ATen/ops/allclose.h>
#include <torch/csrc/jit/api/module.h>

#include <array>

namespace torchship::options_test {
namespace {

using namespace torchship::testing;

/// Restores the default settings after each test, because they hold for the whole process.
class options : public ::testing::Test {
 protected:
  void TearDown() override { configure_runtime(); }
};

template <typename E = UsageError>
std::string refusal(const std::string& name, const Options& options) {
  return message_of<E>([&] { Archive::open(artefact(name), options); });
}

float first_of(const Session& session) {
  return session.run({{"x", floats({0, 0, 0}, {1, 3})}}).at("y").const_data_ptr<float>()[0];
}

TEST_F(options, defaults) {
  configure_runtime(2, Fusion::dynamic_shapes);
  const Archive archive = Archive::open(artefact("tiny.pt"));
  EXPECT_EQ(archive.options().device, "cpu");
  EXPECT_FALSE(archive.signature_checked());
  const RuntimeSettings settings = runtime_settings();
  EXPECT_EQ(settings.threads, 1);
  EXPECT_EQ(settings.interop_threads, 1);
  EXPECT_EQ(settings.fusion, Fusion::off);
  EXPECT_EQ(settings.float32_matmul, "highest");
  EXPECT_FALSE(settings.cudnn_tf32);
}

TEST_F(options, threads_and_fusion) {
  Archive::open(artefact("tiny.pt"), {.threads = 2, .fusion = Fusion::static_shapes});
  EXPECT_EQ(runtime_settings().threads, 2);
  EXPECT_EQ(runtime_settings().fusion, Fusion::static_shapes);
  Archive::open(artefact("tiny.pt"), {.fusion = Fusion::dynamic_shapes});
  EXPECT_EQ(runtime_settings().threads, 1);
  EXPECT_EQ(runtime_settings().fusion, Fusion::dynamic_shapes);
  EXPECT_EQ(refusal("tiny.pt", {.threads = 0}), "threads: expected 1 to 1024, got 0");
  EXPECT_EQ(fusion_name(Fusion::off), "off");
  EXPECT_EQ(fusion_name(Fusion::static_shapes), "static");
  EXPECT_EQ(fusion_name(Fusion::dynamic_shapes), "dynamic");
}

TEST_F(options, missing_and_malformed_devices) {
  EXPECT_TRUE(contains(refusal("tiny.pt", {.device = "cuda:99"}),
                       "device: LibTorch has no 'cuda:99': it sees "));
  for (const char* device : {"gpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda:0 ", "cpu:0"}) {
    EXPECT_EQ(refusal("tiny.pt", {.device = device}),
              std::string("device: expected cpu, cuda or cuda:<number>, got '") + device + "'");
  }
  // The device is checked before the file.
  EXPECT_TRUE(contains(refusal("gone.pt", {.device = "gpu"}), "device: "));
}

TEST_F(options, trusted_keys) {
  const TrustedKeys ours(artefact("ours.pem"));
  EXPECT_TRUE(Archive::open(artefact("signed.pt"), {.trusted_keys = ours}).signature_checked());
  const TrustedKeys others(artefact("other.pem"));
  EXPECT_THROW(Archive::open(artefact("signed.pt"), {.trusted_keys = others}), SignatureError);
  EXPECT_THROW(Archive::open(artefact("tiny.pt"), {.trusted_keys = ours}), SignatureError);
}

TEST_F(options, opening_loads_the_module) {
  EXPECT_TRUE(contains(refusal<ArchiveError>("junk_pickle.pt", {}), "LibTorch cannot load it"));
  EXPECT_TRUE(contains(refusal<OperatorError>("custom_op.pt", {}), "'nowhere::nothing'"));
  EXPECT_THROW(Archive::open(artefact("digest.pt")), ArchiveError);
}

TEST_F(options, one_module_for_all_sessions) {
  const Archive archive = Archive::open(artefact("drift.pt"));  // counts its calls
  const Archive copy = archive;
  EXPECT_EQ(archive.module(), copy.module());
  EXPECT_EQ(first_of(Session(archive)), 1);
  EXPECT_EQ(first_of(Session(copy)), 2);
  EXPECT_EQ(first_of(Session(Archive::open(artefact("drift.pt")))), 1);
}

TEST_F(options, a_session_outlives_its_archive) {
  auto archive = std::make_optional(Archive::open(artefact("tiny.pt")));
  const Session session(*archive);
  archive.reset();
  EXPECT_EQ(first_of(session), 1);
}

TEST_F(options, warm_up_calls_every_method) {
  EXPECT_EQ(first_of(Session(Archive::open(artefact("drift.pt"), {.warm_up = 3}))), 4);
  EXPECT_NO_THROW(Archive::open(artefact("moba.pt"), {.warm_up = 2}));
  EXPECT_TRUE(contains(refusal<ModelError>("raises.pt", {.warm_up = 1}), "above 10 is forbidden"));
  EXPECT_TRUE(contains(refusal("plain.pt", {.warm_up = 1}), "no golden cases to warm up with"));
  EXPECT_EQ(refusal("tiny.pt", {.warm_up = -1}), "warm_up: expected 0 or more calls, got -1");
}

TEST_F(options, frozen_weights_are_constants) {
  const Archive plain = Archive::open(artefact("moba.pt"));
  const Archive frozen = Archive::open(artefact("moba.pt"), {.freeze = true});
  EXPECT_GT(plain.module()->parameters().size(), 0U);
  EXPECT_EQ(frozen.module()->parameters().size(), 0U);
  for (std::size_t i = 0; i < plain.golden().size(); ++i) {
    const std::string& method = plain.manifest()->golden[i].method;
    const TensorMap& inputs = plain.golden()[i].front().inputs;
    const TensorMap expected = Session(plain, method).run(inputs);
    const TensorMap actual = Session(frozen, method).run(inputs);
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [name, tensor] : expected) {
      EXPECT_TRUE(at::allclose(actual.at(name), tensor)) << method << " " << name;
    }
  }
  // A module that is already frozen is accepted, although LibTorch refuses to freeze it.
  EXPECT_NO_THROW(Archive::open(artefact("plain.pt"), {.freeze = true}));
}

}  // namespace
}  // namespace torchship::options_test

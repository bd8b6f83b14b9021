// Custom operators: the folders in which libraries are searched for, and our own operator.

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/operators.h>
#include <torchship/session.h>
#include <torchship/verify.h>

#include "support.h"

#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <sys/wait.h>

#include <thread>
#include <tuple>

namespace torchship::operators_test {
namespace {

using namespace torchship::testing;
using std::filesystem::path;

const CustomOperator ours{.name = "torchship::lstm_pointwise", .library = "torchship_ops"};

path ops_file() {
  return from_environment("TORCHSHIP_OPS");
}

path ops_folder() {
  return ops_file().parent_path();
}

std::string refusal(const CustomOperator& needed, const std::vector<path>& folders) {
  return message_of<OperatorError>([&] { load_operators({needed}, folders); });
}

TEST(operators, only_our_own_library_is_searched_for_beside_the_program) {
  const path here = std::filesystem::canonical("/proc/self/exe").parent_path();
  const std::vector<path> given{"/a", "b"};
  const std::vector<path> theirs{"/a", std::filesystem::current_path() / "b"};
  EXPECT_EQ(operator_folders("acme_ops", given), theirs);
  const auto all = operator_folders("torchship_ops", given);
  EXPECT_EQ(all, (std::vector<path>{here, here.parent_path() / "lib", theirs[0], theirs[1]}));
}

TEST(operators, a_missing_library_is_named_with_its_operator_and_the_folders) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "libacme_ops.so");  // a folder, not a library
  const std::string message =
      refusal({.name = "acme::nothing", .library = "acme_ops"}, {folder / "", "/no/such"});
  EXPECT_TRUE(contains(message,
                       "needs the operator 'acme::nothing' of the library 'acme_ops': "
                       "there is no 'libacme_ops.so' in '" +
                           (folder / "").string() + "', '/no/such'; "));
  EXPECT_TRUE(contains(message, "TORCHSHIP_OPERATORS"));
  EXPECT_TRUE(contains(refusal({.name = "acme::nothing", .library = "acme_ops"}, {}),
                       "there is no 'libacme_ops.so'; folders"));
}

TEST(operators, a_file_that_is_not_a_library) {
  const TemporaryFolder folder;
  write_bytes(folder / "libacme_ops.so", "nothing");
  const std::string message =
      refusal({.name = "acme::nothing", .library = "acme_ops"}, {folder / ""});
  EXPECT_TRUE(contains(message, "'acme::nothing'"));
  EXPECT_TRUE(contains(message, "cannot load '" + (folder / "libacme_ops.so").string() + "'"));
}

TEST(operators, a_library_without_the_operator) {
  const std::string message =
      refusal({.name = "torchship::nothing", .library = "torchship_ops"}, {ops_folder()});
  EXPECT_TRUE(contains(message, "'" + ops_file().string() + "' does not register it"));
}

TEST(operators, another_file_of_a_loaded_library_is_refused) {
  load_operators({ours}, {ops_folder()});
  const TemporaryFolder folder;
  const path copy = folder / "libacme_ops.so";
  const CustomOperator nothing{.name = "torchship::nothing", .library = "acme_ops"};
  const std::string end = "of a library that is loaded already, '" + ops_file().string() +
                          "': two files cannot register the same operators in one process";
  std::filesystem::copy_file(ops_file(), copy);
  EXPECT_EQ(refusal(nothing, {folder / ""}),
            "it needs the operator 'torchship::nothing' of the library 'acme_ops': '" +
                copy.string() + "' is a copy " + end);
  const path named = folder / ops_file().filename().string();
  write_bytes(named, bytes_of(ops_file()) + "of another build");
  const std::string message =
      refusal({.name = "torchship::nothing", .library = "torchship_ops"}, {folder / ""});
  EXPECT_TRUE(contains(message, "'" + named.string() + "' is another file of the name " + end));
  // The same file under another path is accepted.
  std::filesystem::remove(copy);
  std::filesystem::create_symlink(ops_file(), copy);
  EXPECT_TRUE(contains(refusal(nothing, {folder / ""}), "does not register it"));
}

TEST(operators, a_registered_operator_needs_no_library) {
  EXPECT_NO_THROW(load_operators({{.name = "aten::relu", .library = "acme_ops"}}, {}));
}

TEST(operators, many_threads_may_load_at_once) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] { load_operators({ours}, {ops_folder()}); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_NO_THROW(load_operators({ours}, {}));
}

Options with_our_operators() {
  Options options;
  options.operators = {ops_folder()};
  return options;
}

TEST(operators, an_archive_with_our_operator_agrees) {
  const Archive archive = Archive::open(artefact("lstm-fused.pt"), with_our_operators());
  ASSERT_EQ(archive.manifest()->custom_ops.size(), 1U);
  EXPECT_EQ(archive.manifest()->custom_ops[0].name, ours.name);
  EXPECT_EQ(archive.manifest()->custom_ops[0].library, ours.library);
  const VerifyReport report = verify(archive);
  EXPECT_TRUE(report.agreed);
  for (const OutputResult& result : report.results) EXPECT_TRUE(result.difference.bit_identical);
}

TEST(operators, the_fused_model_matches_the_plain_one) {
  const Archive plain(artefact("lstm.pt"));
  const Archive fused = Archive::open(artefact("lstm-fused.pt"), with_our_operators());
  const Session plain_session(plain);
  const Session fused_session(fused);
  for (const auto& steps : plain.golden()) {
    const TensorMap expected = plain_session.run(steps.front().inputs);
    const TensorMap actual = fused_session.run(steps.front().inputs);
    ASSERT_EQ(actual.size(), expected.size());
    for (const auto& [name, tensor] : expected) {
      EXPECT_TRUE(at::allclose(actual.at(name), tensor, 1e-6, 2e-6)) << name;
    }
  }
}

std::tuple<at::Tensor, at::Tensor> fused(const at::Tensor& gates, const at::Tensor& c) {
  load_operators({ours}, {ops_folder()});
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow("torchship::lstm_pointwise", "")
      .typed<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&)>()
      .call(gates, c);
}

// Under the sanitizers this also tests that the loops do not leave their rows.
TEST(operators, the_kernel_at_every_width) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (std::int64_t hidden = 0; hidden <= 35; ++hidden) {
      for (const std::int64_t batch : {0, 1, 3}) {
        const at::Tensor gates = at::randn({batch, 4 * hidden}, dtype);
        const at::Tensor c = at::randn({batch, hidden}, dtype);
        const auto [h, next] = fused(gates, c);
        const auto parts = gates.to(at::kDouble).chunk(4, 1);
        const at::Tensor expected =
            at::sigmoid(parts[1]) * c.to(at::kDouble) + at::sigmoid(parts[0]) * at::tanh(parts[2]);
        const double near = dtype == at::kFloat ? 1e-6 : 2e-15;
        EXPECT_EQ(next.scalar_type(), dtype);
        EXPECT_TRUE(at::allclose(next.to(at::kDouble), expected, near, near));
        EXPECT_TRUE(at::allclose(h.to(at::kDouble), at::sigmoid(parts[3]) * at::tanh(expected),
                                 near, near));
      }
    }
  }
}

struct Done {
  int code;
  std::string text;
};

/// Runs `verify` in the real binary, where no library is loaded yet. `before` precedes the command.
Done verify_acme(const std::string& before, const std::string& options) {
  const TemporaryFolder folder;
  const std::string command = before + "'" + from_environment("TORCHSHIP_RUNNER").string() +
                              "' verify '" + artefact("acme.pt").string() + "' " + options +
                              " > '" + (folder / "said").string() + "' 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, bytes_of(folder / "said")};
}

TEST(operators, the_runner_searches_only_the_given_folders) {
  const TemporaryFolder folder;
  std::filesystem::copy_file(ops_file(), folder / "libacme_ops.so");
  const std::string place = "'" + (folder / "").string() + "'";
  const Done without = verify_acme("cd " + place + "; ", "");  // not from the current folder either
  EXPECT_EQ(without.code, 3);
  EXPECT_TRUE(contains(without.text,
                       "acme.pt': it needs the operator 'torchship::lstm_pointwise' "
                       "of the library 'acme_ops': there is no 'libacme_ops.so'"));
  EXPECT_EQ(verify_acme("", "--operators " + place).code, 0);
  EXPECT_EQ(verify_acme("", "--operators /no/such --operators " + place).code, 0);
  EXPECT_EQ(verify_acme("TORCHSHIP_OPERATORS=:/no/such:" + place + " ", "").code, 0);
  const Done empty = verify_acme("cd " + place + "; TORCHSHIP_OPERATORS=: ", "");
  EXPECT_EQ(empty.code, 3);
}

TEST(operators, the_runner_finds_our_library_beside_itself) {
  const std::string command = "'" + from_environment("TORCHSHIP_RUNNER").string() + "' verify '" +
                              artefact("lstm-fused.pt").string() + "' > /dev/null 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

}  // namespace
}  // namespace torchship::operators_test

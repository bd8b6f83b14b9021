// Text that a model prints goes to standard error under the model's name, never into the output.

#include "runtime/printing.h"

#include <torchship/session.h>

#include "runner.h"

#include <ATen/ops/ones.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/print_handler.h>

#include <algorithm>
#include <future>
#include <map>
#include <mutex>
#include <sstream>

namespace torchship::printing_test {
namespace {

using namespace torchship::testing;
using nlohmann::json;

std::mutex host_mutex;
std::string host_printed;  // by TorchScript modules outside of archives

void keep(const std::string& text) {
  const std::lock_guard lock(host_mutex);
  host_printed += text;
}

// The host program's own print handler, set before the library opens its first archive.
const bool host_handler = [] {
  torch::jit::setPrintHandler(keep);
  return true;
}();

TensorMap told(const std::string& text) {
  return {{"x", at::ones({1, 2})}, {"text", tensor_from_string(text)}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// The lines that the action writes to this process's standard error.
template <typename Action>
std::vector<std::string> said(const Action& action) {
  ::testing::internal::CaptureStderr();
  action();
  return lines_of(::testing::internal::GetCapturedStderr());
}

TEST(printing, each_line_has_the_models_name) {
  const Session session{Archive(artefact("talker.pt"))};
  const std::vector<std::string> lines = said([&] { session.run(told("one\ntwo")); });
  EXPECT_EQ(lines, (std::vector<std::string>{"talker: one", "talker: two", "talker: o",
                                             "talker: warning: mind", "talker: in a branch"}));
}

TEST(printing, nothing_goes_to_standard_output) {
  const Session session{Archive(artefact("talker.pt"))};
  ::testing::internal::CaptureStdout();
  said([&] { session.run(told("text")); });
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST(printing, the_hosts_print_handler_is_kept) {
  const Session session{Archive(artefact("talker.pt"))};
  torch::jit::Module host("host");
  host.define("def forward(self, x):\n  print('of the host')\n  return x\n");
  const std::vector<std::string> lines = said([&] {
    session.run(told("text"));
    host.forward({at::ones({1})});
  });
  EXPECT_EQ(host_printed, "of the host\n");
  for (const std::string& line : lines) EXPECT_TRUE(line.starts_with("talker: ")) << line;
}

TEST(printing, threads_do_not_mix_their_lines) {
  constexpr int threads = 4;
  constexpr int calls = 100;
  const Session session{Archive(artefact("talker.pt"))};
  const std::vector<std::string> lines = said([&] {
    std::vector<std::future<void>> running;
    for (int thread = 0; thread < threads; ++thread) {
      running.push_back(std::async(std::launch::async, [&session, thread] {
        const std::string text(100, static_cast<char>('a' + thread));
        for (int call = 0; call < calls; ++call) session.run(told(text + "\n" + text));
      }));
    }
    for (auto& call : running) call.get();
  });
  std::map<std::string, int> counted;
  for (const std::string& line : lines) ++counted[line];
  for (int thread = 0; thread < threads; ++thread) {
    const char letter = static_cast<char>('a' + thread);
    EXPECT_EQ(counted["talker: " + std::string(100, letter)], 2 * calls);
    EXPECT_EQ(counted[std::string("talker: ") + letter], calls);
  }
  EXPECT_EQ(counted["talker: in a branch"], threads * calls);
}

TEST(printing, control_characters_are_escaped) {
  EXPECT_EQ(log_lines("m", "a\tb\n"), "m: a\tb\n");
  EXPECT_EQ(log_lines("m", ""), "m: \n");
  EXPECT_EQ(log_lines("m", "a\n\n"), "m: a\nm: \n");
  EXPECT_EQ(log_lines("m", "\x1b[2J\r\x7f"), "m: \\x1b[2J\\x0d\\x7f\n");
  EXPECT_EQ(log_lines("m", std::string_view("\0", 1)), "m: \\x00\n");
  EXPECT_EQ(log_lines("m", "é 😀"), "m: é 😀\n");
  EXPECT_EQ(log_lines("m", "\xc3|\xff"), "m: \\xc3|\\xff\n");      // not UTF-8
  EXPECT_EQ(log_lines("m", "\xc2\x9b|\xe2\x80\xae|\xe2\x80\xa8"),  // CSI, override, separator
            "m: \\xc2\\x9b|\\xe2\\x80\\xae|\\xe2\\x80\\xa8\n");
}

TEST(printing, a_long_line_is_split_between_characters) {
  std::string text(4095, 'x');
  for (int i = 0; i < 5000; ++i) text += "é";
  const std::string cut = log_lines("m", text);
  std::string joined;
  for (const std::string& line : lines_of(cut)) {
    EXPECT_TRUE(line.starts_with("m: "));
    EXPECT_LE(line.size(), 4096U + 3U);
    joined += line.substr(3);
  }
  EXPECT_EQ(joined, text);
}

TEST(printing, the_runners_output_is_json_even_if_the_model_prints) {
  const std::string line = json{{"x", {{1, 2}}}, {"text", "{\"doubled\": 3}\né"}}.dump() + "\n";
  const Done run = runner("run @talker.pt --input -", line + line);
  EXPECT_EQ(run.code, 0);
  ASSERT_EQ(lines_of(run.out).size(), 2U) << run.out;
  for (const std::string& answer : lines_of(run.out)) {
    EXPECT_EQ(json::parse(answer), (json{{"output", {{2.0, 4.0}}}}));
  }
  EXPECT_TRUE(contains(run.err, "talker: {\"doubled\": 3}\ntalker: é\ntalker: {\n"));

  const Done verified = runner("verify @talker.pt --json");
  EXPECT_EQ(verified.code, 0);
  EXPECT_TRUE(json::parse(verified.out).at("agreed").get<bool>());
  EXPECT_TRUE(contains(verified.err, "talker: é\ntalker: \\xc3\n"));

  const Done timed = runner("bench @talker.pt --json --seconds 0 --rounds 1");
  EXPECT_EQ(json::parse(timed.out).at("name"), "talker");
  EXPECT_TRUE(contains(timed.err, "talker: é\n"));
}

}  // namespace
}  // namespace torchship::printing_test

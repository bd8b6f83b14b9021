// The output and the exit codes of the real binary.

#include "runner.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <array>
#include <cmath>
#include <limits>
#include <sstream>

namespace torchship::cli_test {
namespace {

using namespace torchship::testing;
using nlohmann::json;

constexpr const char* unchecked =
    "torchship-runner: no trusted keys: the archive's signature was not checked\n";

TEST(cli, exit_codes) {
  EXPECT_EQ(runner("verify @tiny.pt").code, 0);
  EXPECT_EQ(runner("verify @edited.pt").code, 1);
  for (const char* usage :
       {"", "fly", "verify", "verify @tiny.pt --nonsense", "verify @tiny.pt --repeat 0",
        "run @tiny.pt --input @numbers.npz --method act", "run @tiny.pt --input @numbers.txt",
        "run @tiny.pt --input @numbers.npz --output /no/such/folder/x.npz",
        "inspect @tiny.pt --trusted-keys @gone.pem", "bench @tiny.pt --batch 0",
        "run @counter.pt --input - --labels", "run @odd.pt --input @numbers.npy"}) {
    EXPECT_EQ(runner(usage).code, 2) << usage;
  }
  for (const char* archive :
       {"verify @digest.pt", "inspect @gone.pt", "inspect @future.pt", "verify @plain.pt",
        "inspect @tiny.pt --trusted-keys @ours.pem", "run @liar.pt --input @numbers.npz"}) {
    EXPECT_EQ(runner(archive).code, 3) << archive;
  }
  for (const char* input :
       {"run @tiny.pt --input @gone.npz", "run @tiny.pt --input @positional.npz",
        "run @tiny.pt --input @stored.npz", "run @nan.pt --input @numbers.npz"}) {
    EXPECT_EQ(runner(input).code, 4) << input;
  }
  EXPECT_EQ(runner("run @tiny.pt --input -", "{").code, 4);
  const Done raised = runner("run @raises.pt --input -", R"({"x": [[1, 2, 30]]})");
  EXPECT_EQ(raised.code, 4);
  EXPECT_EQ(raised.err, std::string(unchecked) +
                            "torchship-runner: error: 1 of 1 lines was bad; the first: line 1: "
                            "model 'raises' method 'forward' "
                            "raised: a value above 10 is forbidden\n");
}

TEST(cli, an_unknown_command_is_named) {
  const Done done = runner("fly @tiny.pt");
  EXPECT_EQ(done.code, 2);
  EXPECT_TRUE(
      contains(done.err, "there is no command 'fly': it is inspect, verify, run, bench or play"));
  EXPECT_TRUE(contains(runner("").err, "subcommand is required"));
}

TEST(cli, run_with_empty_input) {
  for (const char* input : {"", "\n \n"}) {
    const Done done = runner("run @tiny.pt --input -", input);
    EXPECT_EQ(done.code, 4);
    EXPECT_TRUE(contains(done.err, "error: no input line"));
  }
}

TEST(cli, run_checks_the_output_file_before_the_first_step) {
  const auto refused = [](const std::string& output) {
    const Done done = runner("run @tiny.pt --input @numbers.npz --labels --output " + output);
    EXPECT_EQ(done.code, 2) << output;
    EXPECT_EQ(done.out, "") << output;
    return done.err;
  };
  EXPECT_TRUE(contains(refused("/no/such/folder/x.npz"), "No such file or directory"));
  EXPECT_TRUE(contains(refused("@tiny.pt/x.npz"), "Not a directory"));
  EXPECT_TRUE(contains(refused("x.txt"), "ends in .npz, .npy or .safetensors"));
}

TEST(cli, help_has_an_example) {
  for (const char* command : {"inspect", "verify", "run", "bench"}) {
    const Done done = runner(std::string(command) + " --help");
    EXPECT_EQ(done.code, 0);
    EXPECT_TRUE(contains(done.out, "torchship-runner " + std::string(command) + " fizzbuzz.pt"));
  }
}

TEST(cli, inspect) {
  const Done text = runner("inspect @moba.pt");
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.err, unchecked);
  EXPECT_TRUE(contains(text.out, "168856"));
  EXPECT_TRUE(contains(text.out, "forward(obs: uint8[batch,510], h: float32[batch,128]"));
  EXPECT_TRUE(contains(text.out, "records are as the manifest says"));
  EXPECT_TRUE(contains(runner("inspect @tiny.pt --code").out, "def forward(self"));
  const json said = json::parse(runner("inspect @tiny.pt --json").out);
  EXPECT_EQ(said["name"], "tiny");
  EXPECT_EQ(said["vouched"], true);
  EXPECT_EQ(said["methods"][0]["inputs"][0]["value"], "float32[batch,3]");
  EXPECT_EQ(said["labels"]["y"][2], "blue");
  const Done plain = runner("inspect @plain.pt");
  EXPECT_TRUE(contains(plain.out, "nothing vouches for it"));
  EXPECT_TRUE(contains(plain.out, "forward(arr_0: a tensor)"));
  EXPECT_FALSE(contains(plain.out, "cannot be called"));
  const Done numbered = runner("inspect @numbered.pt");
  EXPECT_TRUE(contains(numbered.out, "forward(arr_0: a tensor)"));
  EXPECT_TRUE(contains(numbered.out, "pick: cannot be called from files"));
  EXPECT_EQ(json::parse(runner("inspect @numbered.pt --json").out)["not_callable"],
            json::array({"pick"}));
}

TEST(cli, trusted_keys) {
  const Done done = runner("inspect @signed.pt --json --trusted-keys @both.pem");
  EXPECT_EQ(done.code, 0);
  EXPECT_EQ(done.err, "");
  EXPECT_EQ(json::parse(done.out)["signature_checked"], true);
  EXPECT_EQ(runner("verify @signed.pt --trusted-keys @other.pem").code, 3);
}

TEST(cli, verify_json_and_outputs) {
  const TemporaryFolder folder;
  const std::string file = (folder / "actual.safetensors").string();
  const Done done = runner("verify @edited.pt --json --outputs " + file);
  EXPECT_EQ(done.code, 1);
  const json said = json::parse(done.out);
  EXPECT_EQ(said["name"], "tiny");
  EXPECT_EQ(said["agreed"], false);
  const json& result = said["results"].at(0);
  EXPECT_EQ(result["case"], 0);
  EXPECT_EQ(result["case_name"], "one");
  EXPECT_EQ(result["step"], 0);
  EXPECT_EQ(result["output"], "y");
  EXPECT_EQ(result["max_abs"], 0.5);
  EXPECT_EQ(result["bit_identical"], false);
  TensorMap actual = read_safetensors(bytes_of(file));
  EXPECT_EQ(actual.at("0/0/out/y").sizes(), (std::vector<std::int64_t>{2, 3}));
  const json nan = json::parse(runner("verify @nan.pt --json").out)["results"][0];
  EXPECT_TRUE(nan["max_abs"].is_null() && nan["max_rel"].is_null() && nan["max_ulp"].is_null());
  EXPECT_TRUE(contains(nan["reason"], "NaN"));
}

TEST(cli, run_reads_every_file_format) {
  const TemporaryFolder folder;
  const at::Tensor expected = read_npy(bytes_of(artefact("numbers.npy"))) * 2 + 1;
  for (const char* input : {"numbers.npz", "numbers.npy", "numbers.safetensors"}) {
    for (const char* output : {"y.npz", "y.npy", "y.safetensors"}) {
      const std::string file = (folder / output).string();
      const Done done = runner(std::string("run @tiny.pt --input @") + input + " --output " + file);
      EXPECT_EQ(done.code, 0) << done.err;
      EXPECT_EQ(done.out, "");
      EXPECT_TRUE(same(read_tensors(file, "y").at("y"), expected)) << input << " " << output;
    }
  }
  const Done plain = runner("run @plain.pt --input @positional.npz");
  EXPECT_EQ(plain.code, 0);
  EXPECT_TRUE(contains(plain.err, "nothing vouches for it"));
  EXPECT_EQ(json::parse(plain.out)["output"][0][2], 7.0);
}

TEST(cli, run_keeps_state_across_lines_and_files) {
  const Done done = runner("run @counter.pt --input -",
                           "{\"x\": [[1, 2]]}\n\n{\"x\": [[1, 2]]}\n"
                           "{\"x\": [[1, 2]], \"h\": [[10, 10]]}\n{\"x\": [[1, 2]]}\n");
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(done.out,
            "{\"sum\":[[1.0,2.0]],\"twice\":[[2.0,4.0]]}\n"
            "{\"sum\":[[2.0,4.0]],\"twice\":[[4.0,8.0]]}\n"
            "{\"sum\":[[11.0,12.0]],\"twice\":[[22.0,24.0]]}\n"
            "{\"sum\":[[12.0,14.0]],\"twice\":[[24.0,28.0]]}\n");
  const TemporaryFolder folder;
  write_tensors(folder / "x.npy", {{"x", floats({1, 2}, {1, 2})}});
  const std::string x = (folder / "x.npy").string();
  const std::string file = (folder / "y.npz").string();
  EXPECT_EQ(runner("run @counter.pt --input " + x + " --input " + x + " --output " + file).code, 0);
  EXPECT_TRUE(same(read_tensors(file, "").at("sum"), floats({2, 4}, {1, 2})));
}

TEST(cli, run_names_the_wrong_line) {
  const Done done = runner("run @tiny.pt --input -", "{\"x\": [[1,2,3]]}\n{\"x\": [[1,2]]}\n");
  EXPECT_EQ(done.code, 4);
  EXPECT_EQ(done.out,
            "{\"y\":[[3.0,5.0,7.0]]}\n"
            "{\"error\":\"line 2: input 'x': expected float32[batch,3], got float32[1,2]\"}\n");
  EXPECT_TRUE(contains(
      done.err, "the first: line 2: input 'x': expected float32[batch,3], got float32[1,2]"));
  EXPECT_TRUE(
      contains(runner("run @tiny.pt --input -", "{\"x\": 1, \"x\": 2}").err, "occurs twice"));
}

TEST(cli, a_bad_line_keeps_the_state_and_the_next_line_runs) {
  const Done done = runner("run @counter.pt --input -",
                           "{\"x\": [[1, 2]]}\n{\n{\"x\": [[1]]}\n{\"x\": [[1, 2]]}\n");
  EXPECT_EQ(done.code, 4);
  std::istringstream stream(done.out);
  std::vector<json> answers;
  for (std::string line; std::getline(stream, line);) answers.push_back(json::parse(line));
  ASSERT_EQ(answers.size(), 4U);
  EXPECT_EQ(answers[0]["sum"], json::parse("[[1.0, 2.0]]"));
  EXPECT_TRUE(answers[1]["error"].get<std::string>().starts_with("line 2: "));
  EXPECT_TRUE(answers[2]["error"].get<std::string>().starts_with("line 3: input 'x'"));
  EXPECT_EQ(answers[3]["sum"], json::parse("[[2.0, 4.0]]"));
  EXPECT_TRUE(contains(done.err, "2 of 4 lines were bad; the first: line 2: "));
}

TEST(cli, an_output_that_json_cannot_represent_is_an_error_and_keeps_the_state) {
  // The sum fits into float32, twice the sum does not.
  const Done done = runner("run @counter.pt --input -",
                           "{\"x\": [[1, 2]]}\n{\"x\": [[3e38, 0]]}\n{\"x\": [[1, 2]]}\n");
  EXPECT_EQ(done.code, 4);
  EXPECT_EQ(done.out,
            "{\"sum\":[[1.0,2.0]],\"twice\":[[2.0,4.0]]}\n"
            "{\"error\":\"line 2: output 'twice' holds infinity, which JSON cannot carry: write "
            ".npz or .safetensors\"}\n"
            "{\"sum\":[[2.0,4.0]],\"twice\":[[4.0,8.0]]}\n");
}

TEST(cli, a_line_may_have_nan_and_infinity_as_strings) {
  const TemporaryFolder folder;
  const std::string file = (folder / "y.npz").string();
  const Done done = runner("run @tiny.pt --input - --output " + file,
                           R"({"x": [["NaN", "Infinity", "-Infinity"]]})");
  EXPECT_EQ(done.code, 0) << done.err;
  if (done.code != 0) return;
  const at::Tensor y = read_tensors(file, "").at("y");
  EXPECT_TRUE(std::isnan(y[0][0].item<float>()));
  EXPECT_EQ(y[0][1].item<float>(), std::numeric_limits<float>::infinity());
  EXPECT_EQ(y[0][2].item<float>(), -std::numeric_limits<float>::infinity());
}

TEST(cli, a_line_with_a_bare_nan_is_refused_with_advice) {
  const std::string ways =
      R"(: send it as the string "NaN", "Infinity" or "-Infinity", or the tensor in a .npz or )"
      ".safetensors file";
  const auto said = [](const std::string& line) {
    const Done done = runner("run @tiny.pt --input -", line + "\n");
    EXPECT_EQ(done.code, 4);
    return json::parse(done.out)["error"].get<std::string>();
  };
  for (const char* word : {"NaN", "nan", "Infinity", "-Infinity", "+inf", "-NaN"}) {
    EXPECT_EQ(said(std::string(R"({"x": [[1, )") + word + ", 2]]}"),
              std::string("line 1: not JSON: JSON has no ") + word + " (column 12)" + ways);
  }
  EXPECT_EQ(said(R"({"x": [[1e999, 1, 1]]})"),
            "line 1: not JSON: 1e999 is too large for a double (column 9)" + ways);
  const std::string digits(400, '9');
  EXPECT_EQ(said(R"({"x": )" + digits + "}"), "line 1: not JSON: " + digits.substr(0, 40) +
                                                  "... is too large for a double (column 7)" +
                                                  ways);
  // Other JSON errors keep their own messages.
  for (const char* line : {R"({"x": nonsense})", R"({"x": [)", R"({"NaN": infinite})", "{1}"}) {
    EXPECT_TRUE(said(line).starts_with("line 1: parse error at line 1, column ")) << line;
  }
}

TEST(cli, errors_in_json) {
  const Done done = runner("verify @digest.pt --json");
  EXPECT_EQ(done.code, 3);
  EXPECT_EQ(json::parse(done.out)["code"], "bad_archive");
  EXPECT_TRUE(contains(done.err, json::parse(done.out)["error"].get<std::string>()));
  EXPECT_EQ(json::parse(runner("inspect --json").out)["code"], "usage");
  EXPECT_EQ(json::parse(runner("run @tiny.pt --json --input @gone.npz").out)["code"], "bad_input");
}

TEST(cli, a_closed_pipe_is_not_an_error) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  ::close(ends[0]);  // closed before anything is written
  ASSERT_EQ(::dup2(ends[1], 9), 9);
  ::close(ends[1]);
  const TemporaryFolder folder;
  const auto into_nothing = [&](const std::string& arguments) {
    const std::string command = "'" + from_environment("TORCHSHIP_RUNNER").string() + "' " +
                                arguments + " >&9 2> " + (folder / "err").string();
    const int status = std::system(command.c_str());
    EXPECT_EQ(bytes_of(folder / "err"), unchecked) << arguments;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  EXPECT_EQ(into_nothing("inspect " + artefact("tiny.pt").string()), 0);
  EXPECT_EQ(into_nothing("verify " + artefact("edited.pt").string()), 1);
  EXPECT_EQ(into_nothing("play snake --trace " + artefact("snake.pt").string()), 0);
  ::close(9);
}

TEST(cli, labels) {
  const Done done = runner("run @tiny.pt --input - --labels", "{\"x\": [[1,2,3],[9,2,3]]}\n");
  EXPECT_EQ(done.code, 0);
  EXPECT_EQ(done.out, "blue\nred\n");
  const Done words =
      runner("run @fizzbuzz.pt --input - --labels",
             R"({"x": [[1,1,1,1,0,0,0,0,0,0],[1,1,0,0,0,0,0,0,0,0],[1,0,1,0,0,0,0,0,0,0]]})");
  EXPECT_EQ(words.out, "fizzbuzz\nfizz\nbuzz\n");
  EXPECT_EQ(runner("run @tiny.pt --input - --labels --output -").code, 2);
  EXPECT_EQ(runner("run @tiny.pt --input - --labels --json", "{\"x\": [[1,2,3],[9,2,3]]}\n").out,
            "{\"y\":[\"blue\",\"red\"]}\n");
}

TEST(cli, bench_json) {
  const Done done = runner("bench @fizzbuzz.pt --batch 1,32 --seconds 0.01 --json");
  EXPECT_EQ(done.code, 0) << done.err;
  const json said = json::parse(done.out);
  EXPECT_EQ(said["name"], "fizzbuzz");
  ASSERT_EQ(said["results"].size(), 2U);
  for (const char* key :
       {"method", "batch", "threads", "calls", "p50_us", "p90_us", "p99_us", "max_us", "rows_per_s",
        "warm_up_calls", "first_us", "p50_over_rounds_us", "floor", "difference_us"}) {
    EXPECT_TRUE(said["results"][1].contains(key)) << key;
  }
  EXPECT_EQ(said["call"], "run");
  EXPECT_EQ(said["settings"]["threads"], 1);
  EXPECT_TRUE(said["results"][1]["floor"].contains("p50_us"));
  EXPECT_EQ(said["results"][1]["batch"], 32);
}

}  // namespace
}  // namespace torchship::cli_test

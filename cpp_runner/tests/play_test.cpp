// The real binary: images as inputs, and `play`.

#include "runner.h"

#include <nlohmann/json.hpp>

#include <sstream>

namespace torchship::play_test {
namespace {

using namespace torchship::testing;
using nlohmann::json;

TEST(play, a_png_gives_the_same_digit_as_in_python) {
  const Done done = runner("run @bobnet.pt --input @digit.png --labels");
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(done.out, bytes_of(artefact("digit.txt")) + "\n");
}

TEST(play, the_format_of_an_unsuitable_png_is_named) {
  const auto refused = [](const std::string& arguments, int code) {
    const Done done = runner("run " + arguments);
    EXPECT_EQ(done.code, code) << arguments;
    return done.err;
  };
  const std::string wanted =
      "for input 'x', uint8[batch,784]: expected a PNG of 28x28 pixels, gray, 8 bits; got ";
  EXPECT_TRUE(contains(refused("@bobnet.pt --input @wide.png", 4),
                       "wide.png': " + wanted + "32x28 pixels, gray, 8 bits"));
  EXPECT_TRUE(
      contains(refused("@bobnet.pt --input @rgb.png", 4), wanted + "28x28 pixels, RGB, 8 bits"));
  EXPECT_TRUE(
      contains(refused("@bobnet.pt --input @bits.png", 4), wanted + "28x28 pixels, gray, 1 bits"));
  EXPECT_TRUE(contains(refused("@bobnet.pt --input @cut.png", 4), "no PNG that can be read: "));
  EXPECT_TRUE(contains(refused("@tiny.pt --input @digit.png", 2),
                       "input 'x' takes float32[batch,3], no image"));
}

TEST(play, snake_plays_as_in_python) {
  const json played = json::parse(bytes_of(artefact("played.json")));
  ASSERT_EQ(played.size(), 4U);
  for (const json& game : played) {
    const std::string name = game["name"];
    const Done done = runner("play snake @" + name + ".pt --trace --steps 80 --seed 5 --snakes 4 " +
                             "--games 2" + (game["sample"].get<bool>() ? " --sample" : ""));
    ASSERT_EQ(done.code, 0) << done.err;
    std::istringstream stream(done.out);
    std::vector<json> lines;
    for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
    ASSERT_EQ(lines.size(), 81U);
    EXPECT_EQ(lines[79]["digest"], game["digest"]) << name;
    const json& episode = lines[80]["episodes"][0];
    for (const char* count : {"food", "corpses", "deaths"}) {
      EXPECT_EQ(episode[count], game[count]) << name << " " << count;
    }
  }
}

TEST(play, each_episode_has_the_next_seed_and_a_new_state) {
  const auto episodes = [](const std::string& options) {
    return json::parse(
        runner("play snake @snake-lstm.pt --sample --steps 60 --json " + options).out)["episodes"];
  };
  const json both = episodes("--seed 3 --episodes 2");
  ASSERT_EQ(both.size(), 2U);
  EXPECT_EQ(both[1], episodes("--seed 4")[0]);
  EXPECT_NE(both[0]["reward"], both[1]["reward"]);
}

TEST(play, prints_the_score_and_refuses_impossible_games) {
  const Done done = runner("play snake @snake.pt --steps 5");
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(contains(done.out, "seed 0: 5 steps, 16 snakes, food "));
  EXPECT_TRUE(contains(done.out, " steps/s, "));
  EXPECT_TRUE(contains(runner("play --help").out, "torchship-runner play snake snake.pt"));
  EXPECT_EQ(runner("play chess @snake.pt").code, 2);
  EXPECT_TRUE(contains(runner("play snake @tiny.pt").err, "no method 'act'"));
  EXPECT_TRUE(contains(runner("play snake @moba.pt").err, "'obs': expected uint8[batch,510]"));
}

}  // namespace
}  // namespace torchship::play_test

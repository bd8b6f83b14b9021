#include "snake/play.h"

#include "app/output.h"
#include "app/text.h"
#include "base/digest.h"
#include "snake/player.h"
#include "snake/screen.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

namespace torchship::snake {
namespace {

using app::CommonOptions;
using app::print;
using app::reader_is_gone;
using app::short_number;

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr double side_of_one = 18;  // of a field for one snake; of 16, the training's, it is 72

struct Options {
  CommonOptions common;
  std::string game;
  int steps = 500;
  int episodes = 1;
  std::int64_t seed = 0;
  int snakes = 16;
  int games = 1;
  bool sample = false;
  double fps = 20;
  bool plain = false;
  bool json = false;
  bool trace = false;
};

/// What became of one episode.
struct Episode {
  std::uint64_t seed = 0;
  std::int64_t steps = 0;
  SnakeScore score{};        // of all agents
  std::int64_t longest = 1;  // segments, of any snake at any time

  double reward() const {
    return static_cast<double>(score.food) + 0.5 * static_cast<double>(score.corpses) -
           static_cast<double>(score.deaths);
  }
};

SnakeRules rules_of(const Options& options) {
  const int side = static_cast<int>(std::lround(side_of_one * std::sqrt(options.snakes)));
  return {.fields = options.games,
          .snakes = options.snakes,
          .width = side,
          .height = side,
          .food = options.snakes};
}

std::string counted(std::int64_t count, const std::string& thing) {
  return std::to_string(count) + " " + thing + (count == 1 ? "" : "s");
}

std::string whole(double number) {
  return std::to_string(std::llround(number));
}

template <typename T>
std::string_view bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

/// Plays the episodes one after the other.
class Play {
 public:
  Play(const Archive& archive, const Options& options)
      : options_(options),
        model_(archive.name()),
        player_(archive, rules_of(options), options.sample ? Choice::drawn : Choice::likeliest) {}

  void run() {
    const StopSignals signals;
    const Clock::time_point start = Clock::now();
    {
      std::optional<Screen> screen;
      if (is_terminal() && !options_.plain && !options_.json && !options_.trace) screen.emplace();
      for (int number = 0; number < options_.episodes && !over(); ++number) {
        episodes_.emplace_back().seed =
            static_cast<std::uint64_t>(options_.seed) + static_cast<std::uint64_t>(number);
        play(number, screen ? &*screen : nullptr);
      }
    }
    seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
    print(options_.json || options_.trace ? to_json().dump() + "\n" : to_text());
  }

 private:
  static bool over() { return StopSignals::came() || reader_is_gone(); }

  void play(int number, const Screen* screen) {
    Episode& episode = episodes_.back();
    player_.begin(episode.seed);
    Sha256 digest;
    digest.add(bytes_of(player_.observations()));
    const Clock::time_point start = Clock::now();
    while (episode.steps < options_.steps && !over()) {
      player_.step();
      ++episode.steps;
      const auto lengths = player_.game().lengths();
      episode.longest = std::max(episode.longest, *std::ranges::max_element(lengths));
      if (options_.trace) print(trace_line(number, episode.steps - 1, digest));
      if (screen != nullptr) {
        episode.score = total();
        screen->show(player_.game(), said(episode));
        if (options_.fps > 0) {
          const std::chrono::duration<double> due(static_cast<double>(episode.steps) /
                                                  options_.fps);
          sleep_until(start + std::chrono::duration_cast<Clock::duration>(due));
        }
      }
    }
    episode.score = total();
  }

  SnakeScore total() const {
    SnakeScore sum{};
    for (const SnakeScore& score : player_.game().scores()) {
      sum.food += score.food;
      sum.corpses += score.corpses;
      sum.deaths += score.deaths;
    }
    return sum;
  }

  /// What a step did; `digest` goes over all observations, actions, rewards and deaths up to now.
  std::string trace_line(int number, std::int64_t step, Sha256& digest) const {
    const Snake& game = player_.game();
    digest.add(bytes_of(player_.actions()));
    digest.add(bytes_of(player_.observations()));
    digest.add(bytes_of(game.rewards()));
    digest.add(bytes_of(game.died()));
    Json line{{"episode", number},
              {"step", step},
              {"actions", player_.actions()},
              {"lengths", game.lengths()}};
    const auto each = [&](const char* name, std::int64_t SnakeScore::* count) {
      line[name] = Json::array();
      for (const SnakeScore& score : game.scores()) line[name].push_back(score.*count);
    };
    each("food", &SnakeScore::food);
    each("corpses", &SnakeScore::corpses);
    each("deaths", &SnakeScore::deaths);
    line["digest"] = digest.so_far();
    return line.dump() + "\n";
  }

  std::string said(const Episode& episode) const {
    return "seed " + std::to_string(episode.seed) + ": " + counted(episode.steps, "step") + ", " +
           counted(static_cast<std::int64_t>(player_.game().agents()), "snake") + ", food " +
           std::to_string(episode.score.food) + ", corpses " +
           std::to_string(episode.score.corpses) + ", deaths " +
           std::to_string(episode.score.deaths) + ", reward " + short_number(episode.reward()) +
           ", longest " + std::to_string(episode.longest);
  }

  std::int64_t steps() const {
    std::int64_t sum = 0;
    for (const Episode& episode : episodes_) sum += episode.steps;
    return sum;
  }

  double agent_steps_per_s() const {
    return static_cast<double>(steps()) * static_cast<double>(player_.game().agents()) / seconds_;
  }

  std::string to_text() const {
    std::string text;
    for (const Episode& episode : episodes_) text += said(episode) + "\n";
    return text + model_ + ", C++: " + counted(steps(), "step") + " in " + short_number(seconds_) +
           " s, " + whole(static_cast<double>(steps()) / seconds_) + " steps/s, " +
           whole(agent_steps_per_s()) + " steps/s of an agent\n";
  }

  Json to_json() const {
    Json episodes = Json::array();
    for (const Episode& episode : episodes_) {
      episodes.push_back({{"seed", episode.seed},
                          {"steps", episode.steps},
                          {"food", episode.score.food},
                          {"corpses", episode.score.corpses},
                          {"deaths", episode.score.deaths},
                          {"reward", episode.reward()},
                          {"longest", episode.longest}});
    }
    return {{"game", options_.game},
            {"name", model_},
            {"method", player_.method()},
            {"games", options_.games},
            {"snakes", options_.snakes},
            {"episodes", std::move(episodes)},
            {"steps", steps()},
            {"seconds", seconds_},
            {"steps_per_s", static_cast<double>(steps()) / seconds_},
            {"agent_steps_per_s", agent_steps_per_s()}};
  }

  const Options& options_;
  std::string model_;
  SnakePlayer player_;
  std::vector<Episode> episodes_;
  double seconds_ = 0;
};

ExitCode run_play(const Options& options) {
  const Archive archive = options.common.open();
  Play(archive, options).run();
  return ExitCode::agreed;
}

}  // namespace

void add_play(CLI::App& program, app::Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand(
      "play",
      "Play a game with a policy: snake, the game too in C++.\n"
      "Same seed, same game, here and in `torchship play`. In a terminal the first field is shown; "
      "Ctrl-C ends the game with its score.");
  command->add_option("game", options->game, "The game: snake")
      ->required()
      ->check(CLI::IsMember({"snake"}));
  options->common.add_to(*command);
  command->add_option("--steps", options->steps, "Steps of an episode")
      ->check(CLI::Range(1, 1'000'000'000))
      ->capture_default_str();
  command->add_option("--episodes", options->episodes, "Games, one after the other")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--seed", options->seed,
                   "Of the first episode's game and draws; each next one has the next seed")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--snakes", options->snakes, "On a field, which grows with them")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      ->add_option("--games", options->games,
                   "Fields side by side, all snakes moved by one call of the model")
      ->check(CLI::Range(1, 1 << 14))
      ->capture_default_str();
  command->add_flag("--sample", options->sample, "Draw actions instead of taking the likeliest");
  command->add_option("--fps", options->fps, "Steps shown per second; 0 is as many as there are")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command->add_flag("--plain", options->plain, "Show no game, only its end");
  command->add_flag("--json", options->json, "Print JSON for programs, and show no game");
  command->add_flag("--trace", options->trace,
                    "Print a JSON line after each step, with a digest of all that was seen and "
                    "done, and the line of --json at the end");
  command->footer(
      "Examples:\n"
      "  torchship-runner play snake snake.pt\n"
      "  torchship-runner play snake snake-lstm.pt --sample --games 64 --episodes 3 --json");
  command->callback([&action, options] { action = [options] { return run_play(*options); }; });
}

}  // namespace torchship::snake

// game_loop moba.pt TICKS
//
// A server's game loop: 1,024 heroes, one policy, one batch per tick. The policy's memory stays in
// the session; a hero that dies forgets.

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr std::int64_t heroes = 1024;
constexpr std::int64_t observation = 510;  // bytes; the first 484 are 121 cells of 4
constexpr std::int64_t map_bytes = 484;

constexpr std::int64_t choices = 7;  // of the first action: which way to go
constexpr std::int64_t logits = 23;  // of all six actions

// A toy of a game, in place of yours: where a hero is says what it sees, and what it chooses says
// where it goes and how soon it dies.
struct Hero {
  std::int64_t place;
  std::int64_t energy;
};

Hero born(std::int64_t index) {
  return {.place = index, .energy = 20 + index % 17};
}

void look(const Hero& hero, std::uint8_t* bytes) {
  for (std::int64_t i = 0; i < observation; ++i) {
    const bool is_class = i < map_bytes && i % 4 == 0;
    bytes[i] = static_cast<std::uint8_t>(is_class ? (i / 4 + hero.place) % 16
                                                  : (i * 7 + hero.place * 31) % 256);
  }
}

/// Whether the hero is still alive. `first` are the logits of its first action.
bool act(Hero& hero, const float* first) {
  const std::int64_t way = std::max_element(first, first + choices) - first;
  hero.place += way + 1;
  hero.energy -= way + 1;
  return hero.energy > 0;
}

void play(const char* path, int ticks) {
  const auto archive = torchship::Archive::open(path);
  torchship::Session policy(archive);

  std::vector<Hero> world;
  for (std::int64_t i = 0; i < heroes; ++i) world.push_back(born(i));
  // The session reads this memory where it is: fill it, step, fill it again.
  std::vector<std::uint8_t> seen(heroes * observation);
  const at::Tensor obs =
      at::from_blob(seen.data(), {heroes, observation}, at::TensorOptions(at::kByte));

  std::int64_t deaths = 0;
  double hope = 0;  // what the policy thinks its heroes are worth, summed
  for (int tick = 0; tick < ticks; ++tick) {
    for (std::size_t i = 0; i < world.size(); ++i) look(world[i], &seen[i * observation]);
    const torchship::TensorMap outputs = policy.step({{"obs", obs}});
    const auto* logit = outputs.at("logits").const_data_ptr<float>();  // [heroes, 23]
    const auto* value = outputs.at("value").const_data_ptr<float>();   // [heroes, 1]

    std::vector<std::int64_t> dead;
    for (std::int64_t i = 0; i < heroes; ++i) {
      Hero& hero = world[static_cast<std::size_t>(i)];
      hope += static_cast<double>(value[i]);
      if (!act(hero, logit + i * logits)) {
        hero = born(i);
        dead.push_back(i);
      }
    }
    policy.reset(dead);
    deaths += static_cast<std::int64_t>(dead.size());
  }
  std::printf("%lld heroes, %d ticks, %lld deaths, hope %.6f\n", static_cast<long long>(heroes),
              ticks, static_cast<long long>(deaths), hope);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: game_loop moba.pt TICKS\n", stderr);
    return 2;
  }
  try {
    play(argv[1], std::atoi(argv[2]));
  } catch (const torchship::Error& error) {
    std::fprintf(stderr, "game_loop: %s\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}

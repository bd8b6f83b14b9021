// minimal fizzbuzz.pt 15      prints fizzbuzz
#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include <ATen/ops/from_blob.h>

#include <array>
#include <cstdio>
#include <cstdlib>

int main(int, char** argv) {
  try {
    const auto archive = torchship::Archive::open(argv[1]);
    torchship::Session session(archive);

    std::array<float, 10> bits{};
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = float((std::atoi(argv[2]) >> i) & 1);
    const auto outputs = session.run({{"x", at::from_blob(bits.data(), {1, 10})}});

    const auto best = std::size_t(outputs.at("scores").argmax().item().toLong());
    std::puts(archive.manifest()->labels.at("scores").at(best).c_str());
  } catch (const torchship::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return int(error.exit_code());
  }
}

// A small archive with every bit flipped and truncated at every length. Each file must either be
// refused with a message, or have the same records and reproduce its golden case.

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include "memory_file.h"
#include "support.h"

#include <sys/wait.h>

#include <algorithm>

namespace torchship::damage_test {
namespace {

using namespace torchship::testing;

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t stride = 7;  // skips flips, because a sanitised build is slow
#else
constexpr std::size_t stride = 1;
#endif

enum class Outcome { refused, harmless };

/// Opens, loads and runs an archive; fails the test unless it is refused or gives the right
/// outputs.
class Checker {
 public:
  Checker() : bytes_(bytes_of(artefact("tiny.pt"))), good_(artefact("tiny.pt")) {}

  const std::string& bytes() const { return bytes_; }

  Outcome check(std::string_view bytes) {
    file_.write(bytes);
    try {
      const Archive archive(file_.path());
      if (archive.manifest() == nullptr) {
        ADD_FAILURE() << "read as plain TorchScript";
        return Outcome::harmless;
      }
      EXPECT_TRUE(std::ranges::equal(archive.records(), good_.records(), [](auto& a, auto& b) {
        return a.name == b.name && a.size == b.size && a.sha256 == b.sha256;
      }));
      Session session(archive);
      const GoldenStep& step = good_.golden()[0].at(0);
      EXPECT_TRUE(same(archive.golden()[0].at(0).outputs.at("y"), step.outputs.at("y")));
      EXPECT_TRUE(same(session.run(step.inputs).at("y"), step.outputs.at("y")));
      return Outcome::harmless;
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::bad_archive) << error.what();
      EXPECT_STRNE(error.what(), "");
      return Outcome::refused;
    }
  }

 private:
  std::string bytes_;
  Archive good_;
  MemoryFile file_;
};

TEST(damage, every_flipped_bit) {
  Checker checker;
  std::size_t harmless = 0;
  std::size_t tried = 0;
  std::string bad = checker.bytes();
  for (std::size_t i = 0; i < bad.size() * 9; i += stride) {
    // Each of the eight bits of a byte, then all eight together.
    const std::size_t place = i / 9;
    const auto flip = static_cast<char>(i % 9 == 8 ? 0xFF : 1 << (i % 9));
    SCOPED_TRACE("byte " + std::to_string(place) + ", flip " + std::to_string(i % 9));
    bad[place] = static_cast<char>(bad[place] ^ flip);
    harmless += checker.check(bad) == Outcome::harmless ? 1 : 0;
    bad[place] = checker.bytes()[place];
    ++tried;
    if (HasFailure()) return;
  }
  // No reader uses times, padding and attributes, but readers use most of the file.
  EXPECT_GT(harmless, 0U);
  EXPECT_LT(harmless, tried / 2);
}

TEST(damage, every_truncated_length) {
  Checker checker;
  for (std::size_t length = 0; length < checker.bytes().size(); ++length) {
    ASSERT_EQ(checker.check(std::string_view(checker.bytes()).substr(0, length)), Outcome::refused)
        << length;
  }
}

struct Answer {
  int code = -1;
  std::string err;
};

Answer verify(const std::filesystem::path& archive, const std::filesystem::path& err) {
  const std::string command = "'" + from_environment("TORCHSHIP_RUNNER").string() + "' verify '" +
                              archive.string() + "' > /dev/null 2> '" + err.string() + "'";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, bytes_of(err)};
}

TEST(damage, a_sample_with_the_binary) {
  const TemporaryFolder folder;
  Checker checker;
  for (std::size_t sample = 0; sample < 12; ++sample) {
    const std::size_t place = sample * checker.bytes().size() / 12 + sample;
    std::string bad = checker.bytes();
    bad[place] = static_cast<char>(bad[place] ^ 0xFF);
    if (sample % 3 == 2) bad.resize(place);
    write_bytes(folder / "bad.pt", bad);
    const Answer answer = verify(folder / "bad.pt", folder / "err");
    if (checker.check(bad) == Outcome::harmless) {
      EXPECT_EQ(answer.code, 0) << place << answer.err;
    } else {
      EXPECT_EQ(answer.code, 3) << place;
      EXPECT_TRUE(contains(answer.err, "torchship-runner: error: ")) << place;
    }
  }
}

}  // namespace
}  // namespace torchship::damage_test

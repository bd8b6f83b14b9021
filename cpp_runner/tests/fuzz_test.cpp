// What the fuzzers start from, and what they have found: every file below cpp_runner/fuzz/corpus is
// fed to its target. TORCHSHIP_CORPUS is that folder.

#include "support.h"
#include "targets.h"

namespace torchship {
namespace {

using namespace torchship::testing;

TEST(fuzz, every_kept_input_is_read_or_refused) {
  for (const fuzz::Target& target : fuzz::targets) {
    std::size_t files = 0;
    const auto folder = from_environment("TORCHSHIP_CORPUS") / target.name;
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      SCOPED_TRACE(file.path().string());
      EXPECT_NO_THROW(target.run(bytes_of(file.path())));
      ++files;
    }
    EXPECT_GT(files, 2U) << target.name;
  }
}

TEST(fuzz, no_bytes_at_all) {
  for (const fuzz::Target& target : fuzz::targets) EXPECT_NO_THROW(target.run("")) << target.name;
}

}  // namespace
}  // namespace torchship

// Runs every file in cpp_runner/fuzz/corpus, where the fuzzers start and which keeps what they have
// found, with its target. TORCHSHIP_CORPUS is that folder.

#include "support.h"
#include "targets.h"

namespace torchship::fuzz_test {
namespace {

using namespace torchship::testing;

TEST(fuzz, every_corpus_file_is_read_or_refused) {
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

TEST(fuzz, empty_input) {
  for (const fuzz::Target& target : fuzz::targets) EXPECT_NO_THROW(target.run("")) << target.name;
}

}  // namespace
}  // namespace torchship::fuzz_test

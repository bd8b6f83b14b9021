// The memory of an archive, while it is opened and afterwards: its weights, without a copy of its
// file.

#include <torchship/error.h>
#include <torchship/session.h>

#include "support.h"

#include <ATen/ops/ones.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace torchship::memory_test {
namespace {

using namespace torchship::testing;

constexpr double weights = 32e6;  // bytes, of large.pt

/// This process's memory in bytes: `VmRSS` is the resident memory, `VmHWM` its peak.
double memory(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == name + ":" && status >> kib) return kib * 1024;
  }
  throw std::runtime_error("/proc/self/status has no " + name);
}

void reset_peak() {
  std::ofstream("/proc/self/clear_refs") << 5;
}

TEST(memory, an_open_archive_keeps_no_copy_of_the_file) {
  Session(Archive(artefact("tiny.pt")))
      .run({{"x", floats({1, 2, 3}, {1, 3})}});  // LibTorch's own memory
  reset_peak();
  const double base = memory("VmRSS");
  const Archive archive = Archive::open(artefact("large.pt"));
  const double resident = memory("VmRSS") - base;
  const double most = memory("VmHWM") - base;
  EXPECT_GT(resident, 0.9 * weights);
  EXPECT_LT(resident, 1.15 * weights);
  EXPECT_LT(most, 2.2 * weights);
  EXPECT_EQ(archive.file_size(), std::filesystem::file_size(artefact("large.pt")));
}

TEST(memory, records_are_read_again_from_the_file) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "tiny.pt";
  std::filesystem::copy_file(artefact("tiny.pt"), path);
  const std::string code = Archive(path).read_record("code/__torch__/modules.py");
  const Archive archive = Archive::open(path);
  EXPECT_EQ(archive.read_record("code/__torch__/modules.py"), code);

  std::filesystem::copy_file(artefact("counter.pt"), path,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(contains(message_of<ArchiveError>([&] {
                         static_cast<void>(archive.read_record("code/__torch__/modules.py"));
                       }),
                       "has changed since it was opened"));
  std::filesystem::remove(path);
  EXPECT_TRUE(contains(
      message_of<ArchiveError>([&] { static_cast<void>(archive.read_record("data.pkl")); }),
      "has changed since it was opened: No such file"));
}

TEST(memory, the_checked_bytes_run_even_if_the_file_changes) {
  const TemporaryFolder folder;
  std::filesystem::copy_file(artefact("tiny.pt"), folder / "model.pt");
  const Archive archive(folder / "model.pt");
  std::filesystem::copy_file(artefact("counter.pt"), folder / "model.pt",
                             std::filesystem::copy_options::overwrite_existing);
  const TensorMap outputs = Session(archive).run({{"x", floats({1, 2, 3}, {1, 3})}});
  EXPECT_TRUE(same(outputs.at("y"), floats({3, 5, 7}, {1, 3})));
}

}  // namespace
}  // namespace torchship::memory_test

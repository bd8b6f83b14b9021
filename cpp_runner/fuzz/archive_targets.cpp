// Targets for archives and their parts. What a reader accepts must be as docs/archive.md says.

#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/manifest.h>

#include "archive/golden.h"
#include "base/bytes.h"
#include "base/digest.h"
#include "io/zip_file.h"
#include "memory_file.h"
#include "targets.h"

#include <algorithm>
#include <optional>

namespace torchship::fuzz {
namespace {

void inspect(const Manifest& manifest) {
  require(!manifest.methods.empty(), "a manifest has a method");
  for (const GoldenCase& golden : manifest.golden) {
    require(manifest.find_method(golden.method) != nullptr, "a golden case has its method");
    require(golden.steps > 0, "a golden case has a step");
  }
  for (const Method& method : manifest.methods) {
    for (const Node* output : leaves(method.outputs)) {
      require(output->dtype && output->shape, "an output has a dtype and a shape");
      require(method.tolerances.contains(output->name), "an output has a tolerance");
      static_cast<void>(describe(*output));
    }
    for (const Argument& argument : method.inputs) {
      for (const Node* input : leaves(argument.value)) static_cast<void>(describe(*input));
    }
  }
}

std::optional<Manifest> read_manifest(std::string_view bytes) {
  try {
    return parse_manifest(bytes);
  } catch (const ArchiveError&) {
  } catch (const FormatError&) {
  }
  return std::nullopt;
}

void inspect(const Manifest& manifest, const std::vector<std::vector<GoldenStep>>& cases) {
  require(cases.size() == manifest.golden.size(), "every golden case is there");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    require(cases[i].size() == static_cast<std::size_t>(manifest.golden[i].steps),
            "every step of a golden case is there");
    for (const GoldenStep& step : cases[i]) {
      require(!step.outputs.empty(), "a golden step has an output");
    }
  }
}

}  // namespace

void manifest(std::string_view bytes) {
  if (const auto manifest = read_manifest(bytes)) inspect(*manifest);
}

void golden(std::string_view bytes) {
  if (bytes.size() < 4) return;
  const auto length = load_le<std::uint32_t>(bytes, 0);
  bytes.remove_prefix(4);
  const auto manifest = read_manifest(bytes.substr(0, length));
  if (!manifest) return;
  bytes.remove_prefix(std::min<std::size_t>(length, bytes.size()));
  try {
    inspect(*manifest, parse_golden_cases(*manifest, bytes));
  } catch (const ArchiveError&) {
  }
}

void zip(std::string_view bytes) {
  std::vector<ZipItem> items;
  try {
    const ZipReader reader(bytes);
    for (std::size_t i = 0; i < reader.entries().size(); ++i) {
      items.push_back({reader.entries()[i].name, reader.read(i)});
      require(items.back().bytes.size() == reader.entries()[i].size, "an entry has its size");
    }
  } catch (const ZipError&) {
    return;
  }
  if (items.empty()) return;  // write_zip() needs an entry
  const std::string written = write_zip(items);
  const ZipReader again(written);
  require(again.entries().size() == items.size(), "zip: it lost entries in a round trip");
  for (std::size_t i = 0; i < items.size(); ++i) {
    require(again.entries()[i].name == items[i].name && again.read(i) == items[i].bytes,
            "zip: an entry changed in a round trip");
  }
}

void archive(std::string_view bytes) {
  static testing::MemoryFile file;
  file.write(bytes);
  try {
    const Archive archive(file.path());
    if (archive.manifest() != nullptr) {
      inspect(*archive.manifest());
      inspect(*archive.manifest(), archive.golden());
    }
    for (const Record& record : archive.records()) {
      const std::string content = archive.read_record(record.name);
      require(content.size() == record.size, "a record has its size");
      require(sha256(content) == record.sha256, "a record has its digest");
    }
  } catch (const ArchiveError&) {
  } catch (const FormatError&) {
  }
}

}  // namespace torchship::fuzz

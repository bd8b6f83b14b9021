#include "archive/archive_contents.h"

#include <torchship/error.h>

#include "archive/golden.h"
#include "archive/torch_reader.h"
#include "base/digest.h"
#include "base/floating_point.h"
#include "base/out_of_memory.h"
#include "io/zip_file.h"

#include <algorithm>
#include <new>
#include <set>
#include <utility>

namespace torchship {
namespace {

constexpr std::string_view our_records = "extra/torchship/";
constexpr std::string_view manifest_record = "extra/torchship/manifest.json";
constexpr std::string_view golden_record = "extra/torchship/golden.safetensors";

/// Splits `archive/data.pkl` into the top folder and the record's name.
std::pair<std::string, std::string> split_top(const std::string& name) {
  const auto slash = name.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == name.size()) {
    throw ArchiveError("the record '" + name + "' lies in no top folder");
  }
  if (("/" + name + "/").find("/../") != std::string::npos) {
    throw ArchiveError("the record '" + name + "' has '..' in its name");
  }
  return {name.substr(0, slash), name.substr(slash + 1)};
}

void check_digests(ArchiveContents& contents, std::string_view bytes) {
  // Of what LibTorch's own zip reader returns, since that is what load() will use: in damaged or
  // hostile bytes two zip readers may see two contents (docs/archive.md, "Reading").
  const TorchReader reader(bytes);
  std::optional<TorchRecord> golden;
  const auto& expected = contents.manifest->records;
  for (Record& record : contents.records) {
    if (record.name == manifest_record) continue;
    const auto listed = expected.find(record.name);
    if (listed == expected.end()) {
      throw ArchiveError("the record '" + record.name + "' is not listed in the manifest");
    }
    TorchRecord content = reader.read(record.name);
    const std::string other = std::exchange(record.sha256, sha256(content.bytes()));
    if (listed->second != record.sha256 || other != record.sha256) {
      throw ArchiveError("the record '" + record.name + "' is damaged: its SHA-256 is " +
                         record.sha256 + ", the manifest says " + listed->second);
    }
    if (record.name == golden_record) golden = std::move(content);
  }
  std::set<std::string_view> present;
  for (const Record& record : contents.records) present.insert(record.name);
  for (const auto& listed : expected) {
    if (!present.contains(listed.first)) {
      throw ArchiveError("the record '" + listed.first + "' is missing");
    }
  }
  if (golden) contents.golden = parse_golden_cases(*contents.manifest, golden->bytes());
}

void read_zip(ArchiveContents& contents, std::string_view bytes) {
  const ZipReader zip(bytes);
  if (zip.entries().empty()) throw ArchiveError("it holds no records");
  std::optional<std::string> manifest;
  for (std::size_t i = 0; i < zip.entries().size(); ++i) {
    auto [top, name] = split_top(zip.entries()[i].name);
    if (i > 0 && top != contents.top_folder) {
      throw ArchiveError("it has two top folders, '" + contents.top_folder + "' and '" + top + "'");
    }
    contents.top_folder = top;
    // To its end, whether it is kept or not: that is what compares the CRC-32.
    const bool is_manifest = name == manifest_record;
    if (is_manifest) manifest.emplace();
    Sha256 digest;
    zip.read(i, [&](std::string_view piece) {
      digest.add(piece);
      if (is_manifest) *manifest += piece;
    });
    contents.records.push_back({name, zip.entries()[i].size, digest.hex()});
  }
  contents.name = contents.path.stem().string();
  if (!manifest) {
    // Plain TorchScript, unless the manifest was lost: damage must not pass for "never had one".
    for (const Record& record : contents.records) {
      if (record.name.starts_with(our_records)) {
        throw ArchiveError("it holds the record '" + record.name + "' but no manifest");
      }
    }
    for (const std::string_view needed : {"data.pkl", "constants.pkl"}) {
      if (std::ranges::find(contents.records, needed, &Record::name) == contents.records.end()) {
        throw ArchiveError("not a TorchScript file: it has no 'data.pkl' and 'constants.pkl'");
      }
    }
    return;
  }

  contents.manifest = parse_manifest(*manifest);
  contents.name = contents.manifest->name;
  check_digests(contents, bytes);
  if (contents.golden.size() != contents.manifest->golden.size()) {
    throw ArchiveError("the golden cases are missing: no record '" + std::string(golden_record) +
                       "'");
  }
}

}  // namespace

ArchiveContents read_contents(std::string_view bytes, const std::filesystem::path& path) {
  ArchiveContents contents;
  contents.path = path;
  contents.file_size = bytes.size();
  const std::string what = "'" + path.string() + "': ";
  const DefaultFloatingPoint mode;  // numbers in JSON are rounded as they are read
  try {
    read_zip(contents, bytes);
  } catch (const std::bad_alloc& error) {
    throw out_of_memory(what + "reading it", error);
  } catch (const ZipError& error) {
    throw ArchiveError(what + error.what());
  } catch (const FormatError& error) {
    throw FormatError(what + error.what());
  } catch (const ArchiveError& error) {
    throw ArchiveError(what + error.what());
  }
  return contents;
}

}  // namespace torchship

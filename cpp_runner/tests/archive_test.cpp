#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/session.h>

#include "base/digest.h"
#include "support.h"

#include <algorithm>
#include <set>

namespace torchship::archive_test {
namespace {

using namespace torchship::testing;

std::string refusal(const std::string& name) {
  return message_of<ArchiveError>([&] { Archive(artefact(name + ".pt")); });
}

TEST(archive, metadata) {
  const Archive archive(artefact("tiny.pt"));
  ASSERT_NE(archive.manifest(), nullptr);
  EXPECT_EQ(archive.name(), "tiny");
  EXPECT_FALSE(archive.signature_checked());
  EXPECT_EQ(archive.file_size(), std::filesystem::file_size(artefact("tiny.pt")));
  ASSERT_EQ(archive.golden().size(), 1U);
  const GoldenStep& step = archive.golden()[0].at(0);
  EXPECT_TRUE(same(step.outputs.at("y"), step.inputs.at("x") * 2 + 1));
  EXPECT_TRUE(contains(archive.read_record("code/__torch__/modules.py") +
                           archive.read_record("extra/torchship/manifest.json"),
                       "\"name\": \"tiny\""));
  EXPECT_THROW(static_cast<void>(archive.read_record("gone")), ArchiveError);
}

TEST(archive, digest) {
  const TemporaryFolder folder;
  const std::string tiny = bytes_of(artefact("tiny.pt"));
  write_bytes(folder / "a.pt", tiny);
  const Archive archive(folder / "a.pt");
  EXPECT_EQ(archive.digest(), sha256(tiny));
  static_cast<void>(archive.module());  // the bytes are released
  EXPECT_EQ(archive.digest(), sha256(tiny));
  write_bytes(folder / "a.pt", bytes_of(artefact("plain.pt")));
  EXPECT_TRUE(contains(message_of<ArchiveError>([&] { static_cast<void>(archive.digest()); }),
                       "has changed since it was opened"));
  const Archive in_memory = Archive::open(ArchiveBytes{.bytes = tiny});
  EXPECT_THROW(static_cast<void>(in_memory.digest()), ArchiveError);
}

TEST(archive, from_memory) {
  const std::string bytes = bytes_of(artefact("tiny.pt"));
  const Archive archive = Archive::open(ArchiveBytes{.bytes = bytes, .name = "game.pak"});
  EXPECT_EQ(archive.name(), "tiny");
  EXPECT_EQ(archive.path(), "game.pak");
  EXPECT_EQ(archive.file_size(), bytes.size());
  EXPECT_FALSE(archive.signature_checked());
  const GoldenStep& step = archive.golden()[0].at(0);
  EXPECT_TRUE(same(Session(archive).run(step.inputs).at("y"), step.outputs.at("y")));
  EXPECT_EQ(message_of<ArchiveError>(
                [&] { static_cast<void>(archive.read_record("extra/torchship/manifest.json")); }),
            "'game.pak' was opened from memory, of which nothing is kept");
  EXPECT_TRUE(contains(
      message_of<ArchiveError>([&] { Archive::open(ArchiveBytes{.bytes = "no archive"}); }),
      "'memory': "));
}

TEST(archive, signature_in_memory) {
  const std::string pem = bytes_of(artefact("ours.pem"));
  const std::string bytes = bytes_of(artefact("signed.pt"));
  const std::string signature = bytes_of(artefact("signed.pt.sig"));
  Options options;
  options.trusted_keys.emplace(pem, "compiled in");
  const ArchiveBytes source{.bytes = bytes, .signature = signature};
  EXPECT_TRUE(Archive::open(source, options).signature_checked());
  EXPECT_THROW(Archive::open(source), UsageError);
  EXPECT_THROW(Archive::open(ArchiveBytes{.bytes = bytes}, options), SignatureError);
  EXPECT_EQ(message_of<UsageError>([&] { TrustedKeys("nothing", "compiled in"); }),
            "trusted keys 'compiled in': holds no PUBLIC KEY block");
}

TEST(archive, deflated_records_have_the_same_bytes) {
  EXPECT_EQ(Archive(artefact("deflated.pt")).read_record("extra/torchship/golden.safetensors"),
            Archive(artefact("tiny.pt")).read_record("extra/torchship/golden.safetensors"));
}

TEST(archive, models_of_the_exporter_open) {
  for (const char* name : {"fizzbuzz", "lstm", "moba", "bobnet"}) {
    const Archive archive(artefact(std::string(name) + ".pt"));
    ASSERT_NE(archive.manifest(), nullptr);
    EXPECT_EQ(archive.name(), name);
    EXPECT_FALSE(archive.golden().empty());
  }
}

TEST(archive, plain_torchscript_has_no_manifest) {
  const Archive archive(artefact("plain.pt"));
  EXPECT_EQ(archive.manifest(), nullptr);
  EXPECT_EQ(archive.name(), "plain");
  EXPECT_NE(archive.module(), nullptr);
}

TEST(archive, refusals_name_what_is_wrong) {
  EXPECT_TRUE(contains(refusal("digest"), "record 'data.pkl' is damaged: its SHA-256 is"));
  EXPECT_TRUE(contains(refusal("unlisted"), "record 'data.pkl' is not listed"));
  EXPECT_TRUE(contains(refusal("missing"), "record 'gone' is missing"));
  EXPECT_TRUE(contains(refusal("doubled"), "data.pkl' occurs twice"));
  EXPECT_TRUE(contains(refusal("two_tops"), "two top folders"));
  EXPECT_TRUE(contains(refusal("dotdot"), "'..'"));
  EXPECT_TRUE(contains(refusal("encrypted"), "is encrypted"));
  EXPECT_TRUE(contains(refusal("bzip2"), "method 12"));
  EXPECT_TRUE(contains(refusal("no_golden"), "the golden cases are missing"));
  EXPECT_TRUE(contains(refusal("no_manifest"), "but no manifest"));
  EXPECT_TRUE(contains(refusal("stray_golden"), "no such step"));
  EXPECT_TRUE(contains(refusal("late_state"), "only step 0 may hold state"));
  EXPECT_TRUE(contains(refusal("no_such_file"), "No such file"));
  EXPECT_TRUE(contains(message_of<ArchiveError>([] { Archive(artefact("")); }), "directory"));
  EXPECT_TRUE(
      contains(message_of<FormatError>([] { Archive(artefact("future.pt")); }), "format 2"));
}

// In each file the digest of one record is wrong in its last digit.
TEST(archive, a_wrong_last_digit_of_any_digest_is_refused) {
  std::set<std::string> named;
  std::size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(artefact("wrong_digest"))) {
    const std::string message = message_of<ArchiveError>([&] { Archive{file.path()}; });
    const auto end = message.find("' is damaged: its SHA-256 is ");
    ASSERT_NE(end, std::string::npos) << message;
    named.insert(message.substr(0, end).substr(message.find("the record '")));
    ++files;
  }
  EXPECT_EQ(files, Archive(artefact("tiny.pt")).records().size() - 1);  // all but the manifest
  EXPECT_EQ(named.size(), files);
}

/// The archives in `mutations/<verdict>`, made from tests/manifest_mutations.json. The Python
/// reader is tested with the same table.
std::vector<std::filesystem::path> mutations(const std::string& verdict) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(artefact("mutations/" + verdict))) {
    files.push_back(entry.path());
  }
  EXPECT_GT(files.size(), 20U);
  return files;
}

TEST(archive, manifests_that_both_readers_accept) {
  for (const auto& file : mutations("accepted")) EXPECT_NO_THROW(Archive{file}) << file.stem();
}

TEST(archive, manifests_that_both_readers_refuse) {
  for (const auto& file : mutations("refused")) {
    try {
      const Archive accepted(file);
      ADD_FAILURE() << file.stem() << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::bad_archive) << file.stem();
      const bool newer = file.stem().string().starts_with("format_newer");
      EXPECT_EQ(error.code(), newer ? "newer_format" : "bad_archive") << file.stem();
      EXPECT_TRUE(contains(error.what(), "manifest") || newer) << file.stem();
    }
  }
}

TEST(archive, zips_without_torchscript_are_refused) {
  const TemporaryFolder folder;
  write_tensors(folder / "x.npz", {{"top/x", floats({1}, {1})}});
  constexpr const char* why = "not a TorchScript file: it has no 'data.pkl' and 'constants.pkl'";
  EXPECT_TRUE(contains(message_of<ArchiveError>([&] { Archive(folder / "x.npz"); }), why));
  EXPECT_TRUE(contains(refusal("half_a_script"), why));
}

TEST(archive, a_record_name_may_contain_two_dots) {
  EXPECT_EQ(Archive(artefact("dots.pt")).read_record("extra/a..b"), "x");
}

TEST(archive, records_that_libtorch_cannot_load) {
  const Archive custom(artefact("custom_op.pt"));
  EXPECT_TRUE(contains(message_of<OperatorError>([&] { custom.module(); }), "'nowhere::nothing'"));
  const TemporaryFolder folder;
  write_bytes(folder / "cut.pt", "");
  EXPECT_THROW(Archive(folder / "cut.pt"), ArchiveError);
  const Archive junk(artefact("junk_pickle.pt"));
  EXPECT_TRUE(contains(message_of<ArchiveError>([&] { junk.module(); }), "LibTorch cannot load"));
}

TEST(archive, signatures) {
  const TrustedKeys ours(artefact("ours.pem"));
  const TrustedKeys both(artefact("both.pem"));
  const TrustedKeys other(artefact("other.pem"));
  EXPECT_EQ(both.size(), 2U);
  const auto open = [](const char* name, const TrustedKeys& keys) {
    return Archive(artefact(name), &keys).signature_checked();
  };
  EXPECT_TRUE(open("signed.pt", ours));
  EXPECT_TRUE(open("signed.pt", both));
  const auto fails = [&](const char* name, const TrustedKeys& keys) {
    return message_of<SignatureError>([&] { open(name, keys); });
  };
  EXPECT_TRUE(contains(fails("signed.pt", other), "none of the 1 trusted keys"));
  EXPECT_TRUE(contains(fails("tiny.pt", ours), "not signed"));
  EXPECT_TRUE(contains(fails("short_signature.pt", ours), "63 bytes, expected 64"));
  EXPECT_TRUE(contains(fails("wrong_signature.pt", ours), "none of"));
  // The signature is checked before the file is parsed.
  EXPECT_TRUE(contains(fails("unsigned_junk.pt", ours), "none of"));
  EXPECT_THROW(open("signed_junk.pt", ours), ArchiveError);
}

TEST(archive, a_changed_bit_invalidates_the_signature) {
  const TrustedKeys ours(artefact("ours.pem"));
  const std::string good = bytes_of(artefact("signed.pt"));
  const std::string signature = bytes_of(artefact("signed.pt.sig"));
  EXPECT_TRUE(ours.signed_by_one(good, signature));
  for (std::size_t i = 0; i < good.size(); i += 97) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    EXPECT_FALSE(ours.signed_by_one(bad, signature)) << i;
  }
}

TEST(archive, key_files) {
  const auto fails = [](const char* name) {
    return message_of<UsageError>([&] { TrustedKeys{artefact(name)}; });
  };
  EXPECT_TRUE(contains(fails("rsa.pem"), "key 1 is no Ed25519 key"));
  EXPECT_TRUE(contains(fails("empty.pem"), "holds no PUBLIC KEY"));
  EXPECT_TRUE(contains(fails("damaged.pem"), "key 1 is damaged"));
  EXPECT_TRUE(contains(fails("gone.pem"), "cannot be read"));
}

/// Opens the file. It must either be refused, or have the same records and outputs as `good`; then
/// `accepted` is increased.
void expect_refused_or_same(const std::filesystem::path& file, const Archive& good,
                            std::size_t& accepted) {
  try {
    const Archive archive(file);
    ASSERT_NE(archive.manifest(), nullptr);
    ASSERT_EQ(archive.records().size(), good.records().size());
    for (const Record& record : good.records()) {
      const auto same_record = [&](const Record& r) {
        return r.name == record.name && r.sha256 == record.sha256;
      };
      ASSERT_TRUE(std::ranges::any_of(archive.records(), same_record)) << record.name;
    }
    Session session(archive);
    const GoldenStep& step = archive.golden()[0].at(0);
    ASSERT_TRUE(same(session.run(step.inputs).at("y"), step.outputs.at("y")));
    ++accepted;
  } catch (const ArchiveError&) {
  } catch (const FormatError&) {
  }
}

TEST(archive, a_flipped_bit_in_any_byte_is_refused_or_harmless) {
  const TemporaryFolder folder;
  const Archive good(artefact("tiny.pt"));
  const std::string bytes = bytes_of(artefact("tiny.pt"));
  std::size_t accepted = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string bad = bytes;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    write_bytes(folder / "bad.pt", bad);
    SCOPED_TRACE("byte " + std::to_string(i));
    expect_refused_or_same(folder / "bad.pt", good, accepted);
    if (HasFatalFailure()) return;
  }
  // A change is harmless only in bytes that no reader uses (times, padding), and records make up
  // most of the file.
  EXPECT_LT(accepted, bytes.size() / 2);
}

// With this bit set, LibTorch's zip reader takes the record for a folder and returns uninitialised
// memory, while libzip sees an intact file. Digests must therefore be of what LibTorch reads.
TEST(archive, a_record_that_libtorch_reads_as_a_folder_is_refused) {
  const TemporaryFolder folder;
  std::string bytes = bytes_of(artefact("fizzbuzz.pt"));
  constexpr std::string_view name = "/data/0";
  constexpr std::size_t to_name = 46;        // from the start of a central directory entry
  constexpr std::size_t to_attributes = 38;  // to the external file attributes
  const std::size_t at_name = bytes.rfind(name);
  const std::size_t entry = bytes.rfind("PK\x01\x02", at_name);
  ASSERT_LT(entry + to_name, at_name);
  bytes[entry + to_attributes] = static_cast<char>(bytes[entry + to_attributes] ^ 0x10);
  write_bytes(folder / "bad.pt", bytes);
  EXPECT_TRUE(contains(message_of<ArchiveError>([&] { Archive(folder / "bad.pt"); }),
                       "record 'data/0' is damaged"));
}

TEST(archive, a_file_truncated_at_any_length_is_refused) {
  const TemporaryFolder folder;
  const std::string bytes = bytes_of(artefact("tiny.pt"));
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    write_bytes(folder / "cut.pt", std::string_view(bytes).substr(0, length));
    EXPECT_THROW(Archive(folder / "cut.pt"), ArchiveError) << length;
  }
}

}  // namespace
}  // namespace torchship::archive_test

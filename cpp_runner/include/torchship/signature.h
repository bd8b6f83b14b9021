#pragma once

/// Detached Ed25519 signatures (docs/archive.md, "Signature file").

#include <torchship/hide_macros.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct evp_pkey_st;  // OpenSSL's EVP_PKEY

namespace torchship {

/// The public keys that may have signed an archive. Immutable, so any thread may use it.
class TrustedKeys {
 public:
  /// Reads a PEM file with one or more `PUBLIC KEY` blocks. Raises UsageError if the file cannot be
  /// read or has no key, or if a key is damaged or not Ed25519.
  explicit TrustedKeys(const std::filesystem::path& path);

  /// The same for PEM in memory; messages call it `name`.
  TrustedKeys(std::string_view pem, const std::string& name);

  /// The number of keys.
  std::size_t size() const { return keys_.size(); }

  /// Whether one of the keys made `signature` (64 raw bytes) for `bytes`.
  bool signed_by_one(std::string_view bytes, std::string_view signature) const;

  /// Checks that `<file>.sig` is a signature of the file's `bytes`. Raises SignatureError if the
  /// signature is missing, malformed, or not made with one of the keys.
  void check(const std::filesystem::path& file, std::string_view bytes) const;

  /// The same for a signature in memory; messages call the signed bytes `name`.
  void check(const std::string& name, std::string_view bytes,
             const std::optional<std::string_view>& signature) const;

 private:
  void read_pem(std::string_view pem, const std::string& what);

  std::vector<std::shared_ptr<evp_pkey_st>> keys_;
};

}  // namespace torchship

#include <torchship/restore_macros.h>

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

/// The public keys that an archive's signature may be of. Immutable: any thread may use it.
class TrustedKeys {
 public:
  /// Reads a PEM file of one or more `PUBLIC KEY` blocks. Raises UsageError when it cannot be read,
  /// holds no key, or holds a key that is not Ed25519.
  explicit TrustedKeys(const std::filesystem::path& path);

  /// The same of PEM in memory; `name` is what messages call it.
  TrustedKeys(std::string_view pem, const std::string& name);

  std::size_t size() const { return keys_.size(); }

  /// Whether `signature` (64 raw bytes) over `bytes` is of one of the keys.
  bool signed_by_one(std::string_view bytes, std::string_view signature) const;

  /// Checks `<file>.sig` over the file's `bytes`; raises SignatureError.
  void check(const std::filesystem::path& file, std::string_view bytes) const;

  /// Checks a signature over the `bytes` of what messages call `name`; raises SignatureError.
  void check(const std::string& name, std::string_view bytes,
             const std::optional<std::string_view>& signature) const;

 private:
  void read_pem(std::string_view pem, const std::string& what);

  std::vector<std::shared_ptr<evp_pkey_st>> keys_;
};

}  // namespace torchship

#include <torchship/restore_macros.h>

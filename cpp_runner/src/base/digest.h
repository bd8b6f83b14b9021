#pragma once

/// SHA-256 over OpenSSL. Internal.

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace torchship {

/// A running SHA-256; one thread at a time.
class Sha256 {
 public:
  Sha256();
  void add(std::string_view bytes);
  /// The digest of what was added up to now, as hex() would give it; the run goes on.
  std::string so_far() const;
  /// The digest as 64 lower-case hex digits; ends the run.
  std::string hex();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

/// The digest of these bytes, as 64 lower-case hex digits.
std::string sha256(std::string_view bytes);

}  // namespace torchship

#include <torchship/error.h>
#include <torchship/signature.h>

#include "base/files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>

namespace torchship {
namespace {

constexpr std::size_t signature_size = 64;
constexpr std::size_t longest_key = 1 << 20;  // characters of PEM
constexpr std::string_view block = "-----BEGIN PUBLIC KEY-----";

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;

const unsigned char* raw(std::string_view bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

}  // namespace

TrustedKeys::TrustedKeys(const std::filesystem::path& path) {
  const std::string what = "trusted keys '" + path.string() + "'";
  const auto pem = read_file(path);
  if (!pem) throw UsageError(what + ": cannot be read: " + errno_message());
  read_pem(*pem, what);
}

TrustedKeys::TrustedKeys(std::string_view pem, const std::string& name) {
  read_pem(pem, "trusted keys '" + name + "'");
}

void TrustedKeys::read_pem(std::string_view pem, const std::string& what) {
  struct FreeBio {
    void operator()(BIO* bio) const { BIO_free(bio); }
  };
  for (auto start = pem.find(block); start != std::string_view::npos;
       start = pem.find(block, start + block.size())) {
    const std::string_view rest = pem.substr(start);
    const std::unique_ptr<BIO, FreeBio> bio(
        BIO_new_mem_buf(rest.data(), static_cast<int>(std::min(rest.size(), longest_key))));
    EVP_PKEY* key = PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr);
    ERR_clear_error();
    const std::string number = "key " + std::to_string(keys_.size() + 1);
    if (key == nullptr) throw UsageError(what + ": " + number + " is damaged");
    keys_.emplace_back(key, EVP_PKEY_free);
    if (EVP_PKEY_get_base_id(key) != EVP_PKEY_ED25519) {
      throw UsageError(what + ": " + number + " is no Ed25519 key");
    }
  }
  if (keys_.empty()) throw UsageError(what + ": holds no PUBLIC KEY block");
}

bool TrustedKeys::signed_by_one(std::string_view bytes, std::string_view signature) const {
  if (signature.size() != signature_size) return false;
  for (const auto& key : keys_) {
    const Context context(EVP_MD_CTX_new());
    const bool good =
        EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
        EVP_DigestVerify(context.get(), raw(signature), signature.size(), raw(bytes),
                         bytes.size()) == 1;
    ERR_clear_error();
    if (good) return true;
  }
  return false;
}

void TrustedKeys::check(const std::filesystem::path& file, std::string_view bytes) const {
  std::filesystem::path path = file;
  path += ".sig";
  const auto signature = read_file(path);
  if (!signature) {
    throw SignatureError("'" + file.string() + "' is not signed: " + cannot_read(path));
  }
  check(file.string(), bytes, *signature);
}

void TrustedKeys::check(const std::string& name, std::string_view bytes,
                        const std::optional<std::string_view>& signature) const {
  const std::string what = "'" + name + "'";
  if (!signature) throw SignatureError(what + " is not signed: no signature was given");
  if (signature->size() != signature_size) {
    throw SignatureError(what + ": its signature has " + std::to_string(signature->size()) +
                         " bytes, expected 64");
  }
  if (!signed_by_one(bytes, *signature)) {
    throw SignatureError(what + ": its signature is of none of the " + std::to_string(size()) +
                         " trusted keys");
  }
}

}  // namespace torchship

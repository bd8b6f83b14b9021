#include "c_api/c_options.h"

#include <torchship/error.h>

#include "base/join.h"
#include "c_api/c_errors.h"
#include "c_api/c_tensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace torchship {
namespace {

/// What `sizeof(torchship_options)` was in each header; none may end in padding, or the fields that
/// come next would lie in it.
constexpr std::array option_sizes{offsetof(torchship_options, trusted_keys_pem),
                                  sizeof(torchship_options)};

/// The caller's options; those that its header does not have yet are the defaults.
torchship_options complete(const torchship_options& given) {
  torchship_options options = TORCHSHIP_OPTIONS;
  if (std::ranges::find(option_sizes, given.size) == option_sizes.end()) {
    const auto text = [](std::size_t size) { return std::to_string(size); };
    throw UsageError("options.size is " + std::to_string(given.size) + ", expected " +
                     join(option_sizes, " or ", text) +
                     ": begin with TORCHSHIP_OPTIONS, and with a torchship.h no newer than this " +
                     "library, torchship " + TORCHSHIP_VERSION);
  }
  std::memcpy(&options, &given, given.size);
  return options;
}

std::optional<TrustedKeys> keys_of(const torchship_options& options) {
  if (options.trusted_keys != nullptr && options.trusted_keys_pem != nullptr) {
    throw UsageError(
        "options.trusted_keys and options.trusted_keys_pem are both given: keys are "
        "in a file or in memory");
  }
  if (options.trusted_keys != nullptr) return TrustedKeys(options.trusted_keys);
  if (options.trusted_keys_pem == nullptr) return std::nullopt;
  return TrustedKeys(options.trusted_keys_pem, "options.trusted_keys_pem");
}

std::vector<std::filesystem::path> folders_of(const torchship_options& options) {
  check_at_most("options.operator_count", options.operator_count, most_in_one_call);
  if (options.operator_count > 0) given(options.operators, "options.operators");
  std::vector<std::filesystem::path> folders;
  for (std::size_t i = 0; i < options.operator_count; ++i) {
    const std::string name = "options.operators[" + std::to_string(i) + "]";
    folders.emplace_back(&given(options.operators[i], name.c_str()));
  }
  return folders;
}

}  // namespace

Options options_of(const torchship_options* from) {
  Options result;
  if (from == nullptr) return result;
  const torchship_options options = complete(*from);
  result.threads = options.threads;
  result.device = &given(options.device, "options.device");
  result.trusted_keys = keys_of(options);
  result.operators = folders_of(options);
  result.warm_up = options.warm_up;
  result.freeze = options.freeze != 0;
  switch (options.fusion) {
    case TORCHSHIP_FUSION_OFF:
      result.fusion = Fusion::off;
      break;
    case TORCHSHIP_FUSION_STATIC:
      result.fusion = Fusion::static_shapes;
      break;
    case TORCHSHIP_FUSION_DYNAMIC:
      result.fusion = Fusion::dynamic_shapes;
      break;
    default:
      throw UsageError("options.fusion is " + std::to_string(options.fusion) +
                       ", expected 0 (off), 1 (static) or 2 (dynamic)");
  }
  return result;
}

ArchiveBytes source_of(const void* bytes, std::size_t size, const char* name, const void* signature,
                       std::size_t signature_size) {
  const auto* start = &given(static_cast<const char*>(bytes), "bytes");
  check_at_most("size", size, most_bytes);
  ArchiveBytes source{.bytes = {start, size}};
  if (name != nullptr) source.name = name;
  if (signature != nullptr) {
    check_at_most("signature_size", signature_size, most_bytes);
    source.signature = {static_cast<const char*>(signature), signature_size};
  } else if (signature_size > 0) {
    throw UsageError("signature_size is " + std::to_string(signature_size) +
                     ", and the signature is NULL");
  }
  return source;
}

}  // namespace torchship

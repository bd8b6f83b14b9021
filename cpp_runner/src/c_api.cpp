#include <torchship/archive.h>
#include <torchship/error.h>
#include <torchship/session.h>
#include <torchship/torchship.h>
#include <torchship/verify.h>

#include "bytes.h"
#include "c_tensors.h"
#include "method_json.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

using torchship::Archive;
using torchship::borrow;
using torchship::Buffers;
using torchship::check_at_most;
using torchship::LentTensors;
using torchship::most_bytes;
using torchship::most_in_one_call;
using torchship::Session;
using torchship::TensorMap;
using torchship::UsageError;

struct torchship_archive {
  explicit torchship_archive(Archive opened) : archive(std::move(opened)) {}

  Archive archive;
  mutable std::once_flag described;
  mutable std::string description;  // JSON, made when first asked for
};

struct torchship_session {
  explicit torchship_session(Session opened) : session(std::move(opened)) {}

  Session session;
  LentTensors outputs;
  std::string state;  // the bytes last saved
};

namespace {

using Json = nlohmann::ordered_json;

thread_local std::string last_message;

torchship_status fail(torchship_status status, const char* message) noexcept {
  try {
    last_message = message;
    // It may name a file or an input of the caller's, in whatever bytes.
    if (!torchship::is_utf8(last_message)) {
      std::ranges::replace_if(last_message, [](unsigned char byte) { return byte >= 0x80; }, '?');
    }
  } catch (...) {
    last_message.clear();  // no memory for words; the status is there
  }
  return status;
}

/// Does `action`, which returns a status; the one place where exceptions become status codes.
template <typename Action>
torchship_status guarded(const Action& action) noexcept {
  try {
    return action();
  } catch (const torchship::Error& error) {
    return fail(static_cast<torchship_status>(error.exit_code()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(TORCHSHIP_INTERNAL, "out of memory");
  } catch (const c10::Error& error) {
    return fail(TORCHSHIP_INTERNAL, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(TORCHSHIP_INTERNAL, error.what());
  } catch (...) {
    return fail(TORCHSHIP_INTERNAL, "something was thrown that is no exception");
  }
}

/// What a pointer argument points to. Raises UsageError when it is NULL.
template <typename T>
T& given(T* pointer, const char* name) {
  if (pointer == nullptr) throw UsageError(std::string("argument '") + name + "' is NULL");
  return *pointer;
}

/// What `sizeof(torchship_options)` was in each header; none may end in padding, or the fields that
/// come next would lie in it.
constexpr std::array option_sizes{offsetof(torchship_options, trusted_keys_pem),
                                  sizeof(torchship_options)};

/// The caller's options; those that its header does not have yet are the defaults.
torchship_options complete(const torchship_options& given) {
  torchship_options options = TORCHSHIP_OPTIONS;
  if (std::ranges::find(option_sizes, given.size) == option_sizes.end()) {
    std::string known;
    for (const std::size_t size : option_sizes) {
      known += (known.empty() ? "" : " or ") + std::to_string(size);
    }
    throw UsageError("options.size is " + std::to_string(given.size) + ", expected " + known +
                     ": begin with TORCHSHIP_OPTIONS, and with a torchship.h no newer than this " +
                     "library, torchship " + TORCHSHIP_VERSION);
  }
  std::memcpy(&options, &given, given.size);
  return options;
}

std::optional<torchship::TrustedKeys> keys_of(const torchship_options& options) {
  if (options.trusted_keys != nullptr && options.trusted_keys_pem != nullptr) {
    throw UsageError(
        "options.trusted_keys and options.trusted_keys_pem are both given: keys are "
        "in a file or in memory");
  }
  if (options.trusted_keys != nullptr) return torchship::TrustedKeys(options.trusted_keys);
  if (options.trusted_keys_pem == nullptr) return std::nullopt;
  return torchship::TrustedKeys(options.trusted_keys_pem, "options.trusted_keys_pem");
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

torchship::Options options_of(const torchship_options* from) {
  torchship::Options result;
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
      result.fusion = torchship::Fusion::off;
      break;
    case TORCHSHIP_FUSION_STATIC:
      result.fusion = torchship::Fusion::static_shapes;
      break;
    case TORCHSHIP_FUSION_DYNAMIC:
      result.fusion = torchship::Fusion::dynamic_shapes;
      break;
    default:
      throw UsageError("options.fusion is " + std::to_string(options.fusion) +
                       ", expected 0 (off), 1 (static) or 2 (dynamic)");
  }
  return result;
}

/// The archive's bytes and its signature, in the caller's memory.
torchship::ArchiveBytes source_of(const void* bytes, std::size_t size, const char* name,
                                  const void* signature, std::size_t signature_size) {
  const auto* start = &given(static_cast<const char*>(bytes), "bytes");
  check_at_most("size", size, most_bytes);
  torchship::ArchiveBytes source{.bytes = {start, size}};
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

std::string describe(const Archive& archive) {
  const torchship::Manifest* manifest = archive.manifest();
  Json json{{"name", archive.name()},
            {"version", manifest != nullptr ? Json(manifest->version) : Json(nullptr)},
            {"methods", Json::array()}};
  for (const auto& method : torchship::methods_of(archive).callable) {
    json["methods"].push_back(torchship::method_json(method));
  }
  // The name of a plain TorchScript file is its file's, which may be no UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// A run or a step; `call` gives the session's outputs for inputs.
template <typename Call>
torchship_status call(torchship_session* session, const torchship_tensor* inputs,
                      std::size_t input_count, const torchship_tensor** outputs,
                      std::size_t* output_count, const Call& call) noexcept {
  if (outputs != nullptr) *outputs = nullptr;
  if (output_count != nullptr) *output_count = 0;
  return guarded([&] {
    torchship_session& handle = given(session, "session");
    given(outputs, "outputs");
    given(output_count, "output_count");
    const TensorMap map = borrow(inputs, input_count);
    // Only now may the outputs of the call before go: they may be among the inputs.
    handle.outputs = LentTensors(call(handle.session, map), map);
    *outputs = handle.outputs.view().data();
    *output_count = handle.outputs.view().size();
    return TORCHSHIP_OK;
  });
}

/// The same, into the caller's memory; `call` hands the outputs to its last argument.
template <typename Call>
torchship_status call_into(torchship_session* session, const torchship_tensor* inputs,
                           std::size_t input_count, const torchship_buffer* buffers,
                           std::size_t buffer_count, const Call& call) noexcept {
  return guarded([&] {
    torchship_session& handle = given(session, "session");
    const Buffers wanted(buffers, buffer_count);
    const TensorMap map = borrow(inputs, input_count);
    call(handle.session, map, [&](const TensorMap& outputs) { wanted.fill(outputs, map); });
    return TORCHSHIP_OK;
  });
}

}  // namespace

const char* torchship_version(void) {
  return TORCHSHIP_VERSION;
}

const char* torchship_last_message(void) {
  return last_message.c_str();
}

torchship_status torchship_archive_open(const char* path, const torchship_options* options,
                                        torchship_archive** archive) {
  if (archive != nullptr) *archive = nullptr;
  return guarded([&] {
    given(path, "path");
    given(archive, "archive");
    *archive =
        std::make_unique<torchship_archive>(Archive::open(path, options_of(options))).release();
    return TORCHSHIP_OK;
  });
}

torchship_status torchship_archive_open_memory(const void* bytes, size_t size, const char* name,
                                               const void* signature, size_t signature_size,
                                               const torchship_options* options,
                                               torchship_archive** archive) {
  if (archive != nullptr) *archive = nullptr;
  return guarded([&] {
    given(archive, "archive");
    const auto source = source_of(bytes, size, name, signature, signature_size);
    *archive =
        std::make_unique<torchship_archive>(Archive::open(source, options_of(options))).release();
    return TORCHSHIP_OK;
  });
}

void torchship_archive_close(torchship_archive* archive) {
  const std::unique_ptr<torchship_archive> owned(archive);
}

torchship_status torchship_archive_describe(const torchship_archive* archive, const char** json) {
  if (json != nullptr) *json = nullptr;
  return guarded([&] {
    const torchship_archive& handle = given(archive, "archive");
    given(json, "json");
    std::call_once(handle.described, [&] { handle.description = describe(handle.archive); });
    *json = handle.description.c_str();
    return TORCHSHIP_OK;
  });
}

torchship_status torchship_archive_verify(const torchship_archive* archive) {
  return guarded([&] {
    const torchship::VerifyReport report = torchship::verify(given(archive, "archive").archive);
    for (const torchship::OutputResult& result : report.results) {
      if (result.difference.agreed) continue;
      const std::string message = "golden case '" + result.case_name + "', step " +
                                  std::to_string(result.step) + ", output '" + result.output +
                                  "': " + result.difference.reason;
      return fail(TORCHSHIP_MISMATCH, message.c_str());
    }
    return TORCHSHIP_OK;
  });
}

torchship_status torchship_session_open(const torchship_archive* archive, const char* method,
                                        torchship_session** session) {
  if (session != nullptr) *session = nullptr;
  return guarded([&] {
    const Archive& opened = given(archive, "archive").archive;
    given(session, "session");
    Session made(opened, method == nullptr ? "forward" : method);
    *session = std::make_unique<torchship_session>(std::move(made)).release();
    return TORCHSHIP_OK;
  });
}

void torchship_session_close(torchship_session* session) {
  const std::unique_ptr<torchship_session> owned(session);
}

torchship_status torchship_session_run(torchship_session* session, const torchship_tensor* inputs,
                                       size_t input_count, const torchship_tensor** outputs,
                                       size_t* output_count) {
  return call(session, inputs, input_count, outputs, output_count,
              [](const Session& opened, const TensorMap& map) { return opened.run(map); });
}

torchship_status torchship_session_step(torchship_session* session, const torchship_tensor* inputs,
                                        size_t input_count, const torchship_tensor** outputs,
                                        size_t* output_count) {
  return call(session, inputs, input_count, outputs, output_count,
              [](Session& opened, const TensorMap& map) { return opened.step(map); });
}

torchship_status torchship_session_run_into(torchship_session* session,
                                            const torchship_tensor* inputs, size_t input_count,
                                            const torchship_buffer* buffers, size_t buffer_count) {
  return call_into(
      session, inputs, input_count, buffers, buffer_count,
      [](const Session& opened, const TensorMap& map, const auto& fill) { fill(opened.run(map)); });
}

torchship_status torchship_session_step_into(torchship_session* session,
                                             const torchship_tensor* inputs, size_t input_count,
                                             const torchship_buffer* buffers, size_t buffer_count) {
  return call_into(session, inputs, input_count, buffers, buffer_count,
                   [](Session& opened, const TensorMap& map, const auto& fill) {
                     Session next = opened;
                     fill(next.step(map));
                     opened = std::move(next);
                   });
}

torchship_status torchship_session_reset(torchship_session* session) {
  return guarded([&] {
    given(session, "session").session.reset();
    return TORCHSHIP_OK;
  });
}

torchship_status torchship_session_reset_rows(torchship_session* session, const int64_t* rows,
                                              size_t row_count) {
  return guarded([&] {
    torchship_session& handle = given(session, "session");
    if (row_count > 0) given(rows, "rows");
    check_at_most("row_count", row_count, most_bytes / sizeof(int64_t));
    handle.session.reset(std::span(rows, row_count));
    return TORCHSHIP_OK;
  });
}

torchship_status torchship_session_save_state(torchship_session* session, const void** bytes,
                                              size_t* size) {
  if (bytes != nullptr) *bytes = nullptr;
  if (size != nullptr) *size = 0;
  return guarded([&] {
    torchship_session& handle = given(session, "session");
    given(bytes, "bytes");
    given(size, "size");
    handle.state = torchship::write_safetensors(handle.session.save_state());
    *bytes = handle.state.data();
    *size = handle.state.size();
    return TORCHSHIP_OK;
  });
}

torchship_status torchship_session_load_state(torchship_session* session, const void* bytes,
                                              size_t size) {
  return guarded([&] {
    torchship_session& handle = given(session, "session");
    const auto* text = &given(static_cast<const char*>(bytes), "bytes");
    check_at_most("size", size, most_bytes);
    handle.session.load_state(torchship::read_safetensors({text, size}));
    return TORCHSHIP_OK;
  });
}

#include <torchship/archive.h>
#include <torchship/session.h>
#include <torchship/torchship.h>
#include <torchship/verify.h>

#include "c_api/c_errors.h"
#include "c_api/c_options.h"
#include "c_api/c_tensors.h"
#include "manifest/method_json.h"

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

using torchship::Archive;
using torchship::borrow;
using torchship::Buffers;
using torchship::check_at_most;
using torchship::fail;
using torchship::given;
using torchship::guarded;
using torchship::LentTensors;
using torchship::most_bytes;
using torchship::options_of;
using torchship::Session;
using torchship::source_of;
using torchship::TensorMap;

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
    handle.outputs = LentTensors(call(handle.session, map));
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
    call(handle.session, map, [&](const TensorMap& outputs) { wanted.fill(outputs); });
    return TORCHSHIP_OK;
  });
}

}  // namespace

const char* torchship_version(void) {
  return TORCHSHIP_VERSION;
}

const char* torchship_last_message(void) {
  return torchship::last_message();
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
                                  "': " + result.difference.reason +
                                  (report.note.empty() ? "" : "; " + report.note);
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

#include <torchship/native.h>

#include "call/complete_inputs.h"
#include "call/json_inputs.h"
#include "native/native_call.h"
#include "runtime/runtime_scope.h"

#include <utility>

namespace torchship {

NativeLibrary::NativeLibrary(const std::filesystem::path& file, const Archive& archive)
    : code_(std::make_shared<const NativeCode>(file, archive)) {}

NativeSession::NativeSession(const NativeLibrary& library, const std::string& method)
    : call_(std::make_shared<const NativeCall>(library.code_, method)) {}

NativeSession::~NativeSession() = default;
NativeSession::NativeSession(NativeSession&&) noexcept = default;
NativeSession& NativeSession::operator=(NativeSession&&) noexcept = default;

// The workspace keeps nothing between calls, so a copy makes its own.
NativeSession::NativeSession(const NativeSession& other)
    : call_(other.call_), state_(other.state_) {}

NativeSession& NativeSession::operator=(const NativeSession& other) {
  if (this == &other) return *this;
  call_ = other.call_;
  state_ = other.state_;
  return *this;
}

const Method& NativeSession::method() const {
  return call_->method();
}

TensorMap NativeSession::run(const TensorMap& inputs) {
  const RuntimeScope scope;
  return (*call_)(inputs, {}, workspace_);
}

TensorMap NativeSession::step(const TensorMap& inputs) {
  const RuntimeScope scope;
  TensorMap outputs = (*call_)(inputs, state_, workspace_);
  state_ = carried_state(method(), outputs);
  return outputs;
}

void NativeSession::reset() {
  state_.clear();
}

TensorMap NativeSession::inputs_from_json(const nlohmann::json& object) const {
  return torchship::inputs_from_json(method(), object);
}

}  // namespace torchship

#pragma once

/// The errors a user can cause: one small exception per kind, each with a stable code for programs
/// and an exit code for shells. Messages name the thing, the value that came and the value
/// expected.

#include <torchship/hide_macros.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace torchship {

/// What `torchship-runner` answers its shell.
enum class ExitCode : int {
  agreed = 0,
  mismatch = 1,
  bad_usage = 2,
  bad_archive = 3,
  bad_input = 4,
};

/// Base of every error below.
class Error : public std::runtime_error {
 public:
  Error(std::string_view code, ExitCode exit_code, const std::string& message)
      : std::runtime_error(message), code_(code), exit_code_(exit_code) {}

  /// A word for programs that stays the same over versions.
  std::string_view code() const noexcept { return code_; }
  ExitCode exit_code() const noexcept { return exit_code_; }

 private:
  std::string_view code_;  // always a string literal
  ExitCode exit_code_;
};

/// A call or command that names something that is not there or does not fit together.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error("usage", ExitCode::bad_usage, message) {}
};

/// A file that cannot be written.
class WriteError : public Error {
 public:
  explicit WriteError(const std::string& message)
      : Error("cannot_write", ExitCode::bad_usage, message) {}
};

/// A file that is damaged, tampered with, or no archive at all.
class ArchiveError : public Error {
 public:
  explicit ArchiveError(const std::string& message)
      : Error("bad_archive", ExitCode::bad_archive, message) {}
};

/// A custom operator that an archive needs and that no library here has.
class OperatorError : public Error {
 public:
  explicit OperatorError(const std::string& message)
      : Error("missing_operator", ExitCode::bad_archive, message) {}
};

/// An archive whose format number this library does not know yet.
class FormatError : public Error {
 public:
  explicit FormatError(const std::string& message)
      : Error("newer_format", ExitCode::bad_archive, message) {}
};

/// A signature that is missing, malformed, or of no trusted key.
class SignatureError : public Error {
 public:
  explicit SignatureError(const std::string& message)
      : Error("bad_signature", ExitCode::bad_archive, message) {}
};

/// A model that returned something else than its manifest promises.
class OutputError : public Error {
 public:
  explicit OutputError(const std::string& message)
      : Error("broken_promise", ExitCode::bad_archive, message) {}
};

/// Inputs that do not fit the method's signature, or a tensor file that cannot be read.
class InputError : public Error {
 public:
  explicit InputError(const std::string& message)
      : Error("bad_input", ExitCode::bad_input, message) {}
};

/// Values that the chosen file format cannot carry, such as NaN in JSON.
class EncodingError : public Error {
 public:
  explicit EncodingError(const std::string& message)
      : Error("not_encodable", ExitCode::bad_input, message) {}
};

/// The model itself raised while it ran, for example on a value that it forbids.
class ModelError : public Error {
 public:
  explicit ModelError(const std::string& message)
      : Error("model_raised", ExitCode::bad_input, message) {}
};

}  // namespace torchship

#include <torchship/restore_macros.h>

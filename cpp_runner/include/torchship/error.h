#pragma once

/// The errors that a user can cause. Each kind is an exception with a stable code for programs and
/// an exit code for shells. Messages name what is wrong, what was expected and what was given.

#include <torchship/hide_macros.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace torchship {

/// The exit codes of `torchship-runner`, and the status codes of the C ABI.
enum class ExitCode : int {
  agreed = 0,
  mismatch = 1,
  bad_usage = 2,
  bad_archive = 3,
  bad_input = 4,
  out_of_memory = 5,
};

/// Base of every error below.
class Error : public std::runtime_error {
 public:
  Error(std::string_view code, ExitCode exit_code, const std::string& message)
      : std::runtime_error(message), code_(code), exit_code_(exit_code) {}

  /// Identifies the kind of error for programs; it does not change between versions.
  std::string_view code() const noexcept { return code_; }
  ExitCode exit_code() const noexcept { return exit_code_; }

 private:
  std::string_view code_;  // always a string literal
  ExitCode exit_code_;
};

/// A call or command that names something that does not exist, or whose arguments contradict each
/// other.
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

/// A file that is damaged, has been tampered with, or is not an archive.
class ArchiveError : public Error {
 public:
  explicit ArchiveError(const std::string& message)
      : Error("bad_archive", ExitCode::bad_archive, message) {}
};

/// A custom operator that an archive needs and that no library provides.
class OperatorError : public Error {
 public:
  explicit OperatorError(const std::string& message)
      : Error("missing_operator", ExitCode::bad_archive, message) {}
};

/// An archive whose format is newer than this library.
class FormatError : public Error {
 public:
  explicit FormatError(const std::string& message)
      : Error("newer_format", ExitCode::bad_archive, message) {}
};

/// A signature that is missing, malformed, or not made with a trusted key.
class SignatureError : public Error {
 public:
  explicit SignatureError(const std::string& message)
      : Error("bad_signature", ExitCode::bad_archive, message) {}
};

/// A model whose outputs are not as its manifest says.
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

/// Too little memory. Neither the input nor the archive is at fault, and a later call may succeed.
class OutOfMemoryError : public Error {
 public:
  explicit OutOfMemoryError(const std::string& message)
      : Error("out_of_memory", ExitCode::out_of_memory, message) {}
};

/// Values that a file format cannot represent, such as NaN in JSON.
class EncodingError : public Error {
 public:
  explicit EncodingError(const std::string& message)
      : Error("not_encodable", ExitCode::bad_input, message) {}
};

/// The model itself raised an exception while it ran, for example because of an input's value.
class ModelError : public Error {
 public:
  explicit ModelError(const std::string& message)
      : Error("model_raised", ExitCode::bad_input, message) {}
};

}  // namespace torchship

#include <torchship/restore_macros.h>

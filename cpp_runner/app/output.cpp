#include "output.h"

#include <torchship/error.h>

#include "base/files.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <string>

namespace torchship::app {
namespace {

bool reader_gone = false;
std::FILE* output = stdout;

[[noreturn]] void cannot_write() {
  throw WriteError("cannot write to standard output: " + errno_message());
}

/// Opens /dev/null for descriptors 0 to 2 where they are closed: the next file to be opened would
/// get one of them, and what is meant for standard error would be written into it.
void occupy_standard_descriptors() {
  for (int opened = 0; opened >= 0 && opened <= STDERR_FILENO;) {
    opened = ::open("/dev/null", O_RDONLY);  // writing to it fails, as to a closed descriptor
    if (opened > STDERR_FILENO) ::close(opened);
  }
}

}  // namespace

void print(std::string_view text) {
  if (reader_gone) return;
  if (std::fwrite(text.data(), 1, text.size(), output) == text.size() && std::fflush(output) == 0) {
    return;
  }
  if (errno != EPIPE) cannot_write();
  reader_gone = true;
}

void close_output() {
  const int copy = ::dup(output_descriptor());
  if (copy >= 0 && ::close(copy) != 0) cannot_write();
}

void keep_standard_output() {
  occupy_standard_descriptors();
  const int kept = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  std::FILE* stream = kept < 0 ? nullptr : ::fdopen(kept, "w");
  if (stream == nullptr || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    throw WriteError("standard output: " + errno_message());
  }
  output = stream;
}

int output_descriptor() {
  return ::fileno(output);
}

bool reader_is_gone() {
  return reader_gone;
}

}  // namespace torchship::app

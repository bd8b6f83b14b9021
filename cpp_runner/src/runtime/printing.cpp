#include "runtime/printing.h"

#include "base/bytes.h"

#include <torch/csrc/jit/runtime/print_handler.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <iterator>
#include <mutex>
#include <utility>

namespace torchship {
namespace {

constexpr std::size_t longest_line = 4096;  // bytes of text; readers of logs cut longer ones

constexpr std::string_view kind_name = "TORCHSHIP_PRINTING";
constexpr c10::DebugInfoKind kind(&kind_name);

struct Model : c10::DebugInfoBase {
  std::string name;
};

const Model* model_of_this_thread() {
  return static_cast<const Model*>(c10::ThreadLocalDebugInfo::get(kind));
}

/// A write to a pipe whose reader has closed it must not end the process: the model's call goes on.
class WithoutPipeSignal {
 public:
  WithoutPipeSignal() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending{};
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  WithoutPipeSignal(const WithoutPipeSignal&) = delete;
  WithoutPipeSignal& operator=(const WithoutPipeSignal&) = delete;
  ~WithoutPipeSignal() {
    const timespec at_once{};
    if (!was_pending_) sigtimedwait(&pipe_, nullptr, &at_once);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

/// Writes what can be written: a log that is full or closed is no reason to fail.
void write_to_standard_error(std::string_view text) {
  const WithoutPipeSignal without_signal;
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// The length of the character at the front, or 0 where the bytes are not UTF-8.
std::size_t character_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  const std::size_t length = lead < 0x80U ? 1 : lead < 0xE0U ? 2 : lead < 0xF0U ? 3 : 4;
  return length <= text.size() && is_utf8(text.substr(0, length)) ? length : 0;
}

/// Whether a character moves the cursor, ends a line, or reorders or hides its neighbours.
bool misleads(std::string_view character) {
  std::uint32_t point = static_cast<unsigned char>(character.front());
  if (character.size() > 1) point &= 0x7FU >> character.size();
  for (const char next : character.substr(1)) {
    point = (point << 6U) | (static_cast<unsigned char>(next) & 0x3FU);
  }
  constexpr std::pair<std::uint32_t, std::uint32_t> ranges[] = {
      {0x00, 0x08},     {0x0A, 0x1F},     {0x7F, 0x9F},      {0xAD, 0xAD},
      {0x61C, 0x61C},   {0x200B, 0x200F}, {0x2028, 0x202E},  {0x2060, 0x206F},
      {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE007F}};
  return std::ranges::any_of(
      ranges, [point](const auto& range) { return range.first <= point && point <= range.second; });
}

/// The text with `\x1b` for what misleads and for bytes that are not UTF-8.
std::string escaped(std::string_view text) {
  std::string safe;
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    const std::string_view character = text.substr(0, std::max<std::size_t>(length, 1));
    if (length == 0 || misleads(character)) {
      for (const char byte : character) {
        char code[5];
        std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(byte));
        safe += code;
      }
    } else {
      safe += character;
    }
    text.remove_prefix(character.size());
  }
  return safe;
}

/// Where to cut a line: at its end, or before the character that would make it too long.
std::size_t cut(std::string_view line) {
  if (line.size() <= longest_line) return line.size();
  std::size_t end = longest_line;
  while (end > longest_line - 4 && (static_cast<unsigned char>(line[end]) & 0xC0U) == 0x80U) --end;
  return end;
}

class ModelWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    const Model* model = model_of_this_thread();
    if (model == nullptr) return WarningHandler::process(warning);
    write_to_standard_error(log_lines(model->name, "warning: " + warning.msg()));
  }
};

torch::jit::PrintHandler handler_before = nullptr;

void print(const std::string& text) {
  const Model* model = model_of_this_thread();
  if (model == nullptr) return handler_before(text);
  write_to_standard_error(log_lines(model->name, text));
}

ModelWarnings& model_warnings() {
  static ModelWarnings warnings;
  return warnings;
}

}  // namespace

std::shared_ptr<c10::DebugInfoBase> printing_as(const std::string& model) {
  static std::once_flag once;
  std::call_once(once, [] {
    handler_before = torch::jit::getPrintHandler();
    torch::jit::setPrintHandler(print);
  });
  auto made = std::make_shared<Model>();
  made->name = escaped(model);
  return made;
}

Printing::Printing(std::shared_ptr<c10::DebugInfoBase> model)
    : model_(kind, std::move(model)), warnings_(&model_warnings()) {}

std::string log_lines(std::string_view model, std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  std::string lines;
  for (std::size_t start = 0; start <= text.size();) {
    std::string_view line = text.substr(start, text.find('\n', start) - start);
    start += line.size() + 1;
    do {
      const std::string_view piece = line.substr(0, cut(line));
      lines.append(model).append(": ").append(escaped(piece)).append("\n");
      line.remove_prefix(piece.size());
    } while (!line.empty());
  }
  return lines;
}

}  // namespace torchship

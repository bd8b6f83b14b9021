// The npy format: numpy/lib/format.py, "Format Version 1.0" to "3.0".

#include <torchship/dtype.h>
#include <torchship/error.h>
#include <torchship/tensor_io.h>

#include "base/bytes.h"
#include "io/plain_tensor.h"
#include "io/raw_tensor.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <vector>

namespace torchship {
namespace {

using namespace std::literals;

constexpr std::string_view magic = "\x93NUMPY"sv;

[[noreturn]] void fail(const std::string& message) {
  throw InputError("npy: " + message);
}

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
};

/// Reads the header's Python dictionary: {'descr': '<f4', 'fortran_order': False, 'shape': (3,), }
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  Header parse() {
    Header header;
    bool descr = false;
    bool order = false;
    bool shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr" && !descr) {
        if (peek() == '[') fail("structured arrays are not supported");
        header.descr = string();
        descr = true;
      } else if (key == "fortran_order" && !order) {
        header.fortran_order = boolean();
        order = true;
      } else if (key == "shape" && !shape) {
        header.shape = tuple();
        shape = true;
      } else {
        fail("the header's key '" + key + "' is unknown or occurs twice");
      }
      if (!accept(',') && peek() != '}') fail("the header is damaged");
    }
    skip_space();
    if (!text_.empty()) fail("the header is damaged");
    if (!descr || !order || !shape) fail("the header lacks descr, fortran_order or shape");
    return header;
  }

 private:
  void skip_space() {
    const auto start = text_.find_first_not_of(" \t\r\n");
    text_.remove_prefix(std::min(start, text_.size()));
  }

  char peek() {
    skip_space();
    return text_.empty() ? '\0' : text_.front();
  }

  bool accept(char wanted) {
    if (peek() != wanted) return false;
    text_.remove_prefix(1);
    return true;
  }

  void expect(char wanted) {
    if (!accept(wanted)) fail("the header is damaged: expected '"s + wanted + "'");
  }

  std::string string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("the header is damaged: expected a string");
    const auto end = text_.find(quote, 1);
    if (end == std::string_view::npos) fail("the header is damaged: a string does not end");
    std::string value(text_.substr(1, end - 1));
    text_.remove_prefix(end + 1);
    return value;
  }

  bool boolean() {
    skip_space();
    for (const auto& [word, value] : {std::pair{"True"sv, true}, std::pair{"False"sv, false}}) {
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return value;
      }
    }
    fail("the header is damaged: expected True or False");
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> values;
    expect('(');
    while (!accept(')')) {
      skip_space();
      std::int64_t value = 0;
      const auto [end, status] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
      if (status != std::errc{} || value < 0) fail("the header's shape is damaged");
      text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
      accept('L');  // Python 2 wrote long integers so
      values.push_back(value);
      if (!accept(',') && peek() != ')') fail("the header's shape is damaged");
    }
    return values;
  }

  std::string_view text_;
};

void append_utf8(std::string& text, std::uint32_t point) {
  const auto add = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (point < 0x80) {
    add(point);
  } else if (point < 0x800) {
    add(0xC0U | (point >> 6U));
    add(0x80U | (point & 0x3FU));
  } else if (point < 0x10000) {
    add(0xE0U | (point >> 12U));
    add(0x80U | ((point >> 6U) & 0x3FU));
    add(0x80U | (point & 0x3FU));
  } else {
    add(0xF0U | (point >> 18U));
    add(0x80U | ((point >> 12U) & 0x3FU));
    add(0x80U | ((point >> 6U) & 0x3FU));
    add(0x80U | (point & 0x3FU));
  }
}

/// A 0-d `U<n>` (UTF-32) or `S<n>` (bytes) array, whose padding zeros do not count.
at::Tensor read_string(const Header& header, std::string_view code, std::string_view data) {
  std::uint64_t length = 0;
  const auto [end, status] = std::from_chars(code.data() + 1, code.data() + code.size(), length);
  if (status != std::errc{} || end != code.data() + code.size()) {
    fail("the element type '" + header.descr + "' is damaged");
  }
  if (!header.shape.empty()) fail("arrays of strings are not supported, only a single string");
  const std::uint64_t unit = code.front() == 'U' ? 4 : 1;
  if (multiply(length, unit) != data.size()) {
    fail("expected " + std::to_string(length) + " characters, got " + std::to_string(data.size()) +
         " bytes");
  }
  std::string text;
  if (unit == 1) {
    text = data.substr(0, data.find_last_not_of('\0') + 1);
  } else {
    std::uint64_t used = length;
    while (used > 0 && load_le<std::uint32_t>(data, (used - 1) * 4) == 0) --used;
    for (std::uint64_t i = 0; i < used; ++i) {
      const auto point = load_le<std::uint32_t>(data, i * 4);
      if (point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
        fail("the string holds a number that is no character");
      append_utf8(text, point);
    }
  }
  return tensor_from_string(text);
}

}  // namespace

at::Tensor read_npy(std::string_view bytes) {
  if (!bytes.starts_with(magic)) fail("not an npy file");
  if (bytes.size() < 12) fail("the file is cut short");
  const unsigned version = static_cast<unsigned char>(bytes[6]);
  if (version < 1 || version > 3) fail("unknown version " + std::to_string(version));
  const std::size_t start = version == 1 ? 10 : 12;
  const std::uint64_t length =
      version == 1 ? load_le<std::uint16_t>(bytes, 8) : load_le<std::uint32_t>(bytes, 8);
  if (length > bytes.size() - start) fail("the file is cut short");
  const Header header = HeaderParser(bytes.substr(start, length)).parse();
  const std::string_view data = bytes.substr(start + length);

  std::string_view code = header.descr;
  if (code.starts_with('>')) {
    fail("'" + header.descr + "' is big-endian, and only little-endian is supported");
  }
  if (code.starts_with('<') || code.starts_with('|') || code.starts_with('=')) {
    code.remove_prefix(1);
  }
  if (code.starts_with('O')) fail("arrays of Python objects are not supported");
  if (code.starts_with('U') || code.starts_with('S')) return read_string(header, code, data);
  const auto dtype = dtype_from_npy(code);
  if (!dtype) fail("the element type '" + header.descr + "' is not supported");

  std::optional<std::uint64_t> expected = c10::elementSize(*dtype);
  for (const std::int64_t size : header.shape) {
    if (expected) expected = multiply(*expected, static_cast<std::uint64_t>(size));
  }
  if (!expected || *expected != data.size()) {
    fail("the shape needs " + (expected ? std::to_string(*expected) : "too many"s) +
         " bytes, the file holds " + std::to_string(data.size()));
  }
  std::vector<std::int64_t> shape = header.shape;
  if (header.fortran_order) std::ranges::reverse(shape);
  at::Tensor tensor;
  try {
    tensor = raw_tensor(*dtype, shape, data);
  } catch (const std::invalid_argument& error) {
    fail(error.what());
  }
  if (!header.fortran_order || shape.size() < 2) return tensor;
  std::vector<std::int64_t> axes(shape.size());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    axes[i] = static_cast<std::int64_t>(axes.size() - 1 - i);
  }
  return tensor.permute(axes).contiguous();
}

std::string write_npy(const at::Tensor& tensor) {
  const auto dtype = find_dtype(tensor.scalar_type());
  if (!dtype || dtype->npy.empty()) {
    throw EncodingError("npy cannot carry " + dtype_name(tensor.scalar_type()) +
                        ": write .safetensors");
  }
  std::string header = "{'descr': '";
  header += c10::elementSize(tensor.scalar_type()) == 1 ? '|' : '<';
  header += std::string(dtype->npy) + "', 'fortran_order': False, 'shape': (";
  const at::IntArrayRef sizes = tensor.sizes();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    header += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  }
  header += sizes.size() == 1 ? ",), }" : "), }";
  // As numpy does: room for the first dimension to grow to 21 digits, then the data start at a
  // multiple of 64 bytes; the header ends with a newline.
  if (!sizes.empty()) header.append(21 - std::to_string(sizes.front()).size(), ' ');
  const std::size_t prefix = magic.size() + 4;
  header.append(63 - (prefix + header.size()) % 64, ' ');
  header += '\n';
  std::string bytes(magic);
  bytes += "\x01\0"sv;
  bytes += store_le(static_cast<std::uint16_t>(header.size()));
  bytes += header;
  const at::Tensor dense = writable(tensor);
  bytes.append(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes());
  return bytes;
}

}  // namespace torchship

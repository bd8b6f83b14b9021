#include "gray_png.h"

#include <torchship/error.h>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstring>
#include <png.h>
#include <vector>

namespace torchship::app {
namespace {

constexpr png_uint_32 max_side = 1U << 14;  // pixels; where the model takes any number
constexpr int wanted_bits = 8;

/// What libpng reads from, and what it says before it jumps.
struct Source {
  std::string_view rest;
  std::array<char, 200> message{};
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto& said = static_cast<Source*>(png_get_error_ptr(png))->message;
  std::strncpy(said.data(), message, said.size() - 1);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}  // of chunks that do not matter

void on_read(png_structp png, png_bytep to, std::size_t count) {
  auto& rest = static_cast<Source*>(png_get_io_ptr(png))->rest;
  if (count > rest.size()) png_error(png, "it ends in the middle");
  std::memcpy(to, rest.data(), count);
  rest.remove_prefix(count);
}

/// libpng's reader. Its errors jump to where a method began, over frames of libpng's alone.
class Reader {
 public:
  explicit Reader(std::string_view bytes)
      : source_{.rest = bytes},
        png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning)),
        info_(png_ == nullptr ? nullptr : png_create_info_struct(png_)) {
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, &info_, nullptr);
      throw std::bad_alloc();
    }
    png_set_read_fn(png_, &source_, on_read);
    png_set_user_limits(png_, max_side, max_side);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  void read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) fail();
    png_read_info(png_, info_);
  }

  void read_pixels(std::vector<png_bytep>& rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) fail();
    png_set_interlace_handling(png_);
    png_read_image(png_, rows.data());
    png_read_end(png_, nullptr);
  }

  std::int64_t width() const { return png_get_image_width(png_, info_); }
  std::int64_t height() const { return png_get_image_height(png_, info_); }
  int bits() const { return png_get_bit_depth(png_, info_); }
  int colour() const { return png_get_color_type(png_, info_); }

 private:
  [[noreturn]] void fail() const {
    throw InputError(std::string("no PNG that can be read: ") + source_.message.data());
  }

  Source source_;
  png_structp png_;
  png_infop info_;
};

std::string colour_name(int colour) {
  switch (colour) {
    case PNG_COLOR_TYPE_GRAY:
      return "gray";
    case PNG_COLOR_TYPE_GRAY_ALPHA:
      return "gray with alpha";
    case PNG_COLOR_TYPE_RGB:
      return "RGB";
    case PNG_COLOR_TYPE_RGB_ALPHA:
      return "RGB with alpha";
    default:
      return "of a palette";
  }
}

std::string size_text(const PixelSize& size) {
  const auto number = [](std::optional<std::int64_t> side) {
    return side ? std::to_string(*side) : std::string("any");
  };
  return number(size.width) + "x" + number(size.height) + " pixels";
}

}  // namespace

at::Tensor read_gray_png(std::string_view bytes, const PixelSize& size) {
  Reader reader(bytes);
  reader.read_header();
  const std::int64_t height = reader.height();
  const std::int64_t width = reader.width();
  if (size.height.value_or(height) != height || size.width.value_or(width) != width ||
      reader.colour() != PNG_COLOR_TYPE_GRAY || reader.bits() != wanted_bits) {
    throw InputError("expected a PNG of " + size_text(size) + ", gray, 8 bits; got " +
                     size_text({height, width}) + ", " + colour_name(reader.colour()) + ", " +
                     std::to_string(reader.bits()) + " bits");
  }
  at::Tensor pixels = at::empty({height, width}, at::TensorOptions(at::kByte));
  std::vector<png_bytep> rows(static_cast<std::size_t>(height));
  auto* row = pixels.mutable_data_ptr<std::uint8_t>();
  for (png_bytep& start : rows) {
    start = row;
    row += width;
  }
  reader.read_pixels(rows);
  return pixels;
}

}  // namespace torchship::app

#include "manifest/parse_format.h"

#include <torchship/error.h>
#include <torchship/manifest.h>

#include <string>

namespace torchship {
namespace {

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// What was written for `format`, if that is an integer too large for nlohmann::json to keep it.
class HugeFormat : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::string digits;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t& text) override { return look(text); }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_ > 0; }
  bool end_object() override { return --depth_ >= 0; }
  bool start_array(std::size_t) override { return ++depth_ > 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(string_t& name) override {
    if (depth_ == 1) at_format_ = name == "format";
    return true;
  }
  /// Also called with a number that not even a double can hold.
  bool parse_error(std::size_t, const std::string& token,
                   const nlohmann::detail::exception&) override {
    look(token);
    return false;
  }

 private:
  bool look(const std::string& text) {
    if (depth_ == 1 && at_format_ && is_digits(text)) digits = text;
    return digits.empty();
  }

  int depth_ = 0;
  bool at_format_ = false;
};

[[noreturn]] void newer_format(const std::string& number) {
  throw FormatError("the archive has format " + number +
                    ", and this torchship reads formats up to " + std::to_string(archive_format) +
                    ": update torchship, or export the model again");
}

}  // namespace

void refuse_huge_format(std::string_view text) {
  HugeFormat format;
  nlohmann::json::sax_parse(text, &format);
  if (!format.digits.empty()) newer_format(format.digits);
}

std::int64_t parse_format(const Field& format, std::string_view text) {
  if (format.is_number_float()) refuse_huge_format(text);
  if (format.is_above_int64()) newer_format(format.dump());
  const std::int64_t number = format.count("a format number");
  if (number > archive_format) newer_format(std::to_string(number));
  if (number != archive_format) format.fail("there is no such format");
  return number;
}

}  // namespace torchship

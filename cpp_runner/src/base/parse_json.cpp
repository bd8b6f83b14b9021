#include "base/parse_json.h"

#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

namespace torchship {
namespace {

constexpr std::size_t max_depth = 100;

using Json = nlohmann::ordered_json;

/// Builds the value. The library's own builder searches for each key in the list of those before
/// it: an object of a million keys would take it hours.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Json value;

  bool null() override { return add(nullptr); }
  bool boolean(bool truth) override { return add(truth); }
  bool number_integer(number_integer_t number) override { return add(number); }
  bool number_unsigned(number_unsigned_t number) override { return add(number); }
  bool number_float(number_float_t number, const string_t&) override { return add(number); }
  bool string(string_t& text) override { return add(std::move(text)); }
  bool binary(binary_t&) override { return false; }  // JSON has none

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!open_.back().keys.insert(name).second) {
      throw std::invalid_argument("the key \"" + name + "\" occurs twice");
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ...": leave out the
    // prefix, which is meant for developers
    const std::string_view message = error.what();
    const auto start = message.find("] ");
    constexpr int number_overflow = 406;
    throw JsonSyntaxError(
        std::string(start == std::string_view::npos ? message : message.substr(start + 2)),
        position, error.id == number_overflow);
  }

 private:
  /// An object or a list that is being read. Its parent gets no other item until it
  /// is closed, so that the pointer stays valid.
  struct Open {
    Json* container;
    std::set<std::string> keys;
  };

  Json* place(Json&& item) {
    if (open_.empty()) {
      value = std::move(item);
      return &value;
    }
    if (auto* list = open_.back().container->get_ptr<Json::array_t*>()) {
      return &list->emplace_back(std::move(item));
    }
    auto& object = *open_.back().container->get_ptr<Json::object_t*>();
    return &object.emplace_back(std::move(key_), std::move(item)).second;
  }

  bool add(Json&& item) {
    place(std::move(item));
    return true;
  }

  bool open(Json&& container) {
    if (open_.size() >= max_depth) {
      throw std::invalid_argument("nested deeper than " + std::to_string(max_depth));
    }
    open_.push_back({place(std::move(container)), {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Open> open_;
  std::string key_;
};

}  // namespace

Json parse_json(std::string_view text) {
  // The parser would skip it.
  if (text.starts_with("\xEF\xBB\xBF")) throw std::invalid_argument("a byte order mark");
  // The parser would take it for the end, and not look at what follows.
  if (text.find('\0') != std::string_view::npos) throw std::invalid_argument("a zero byte");
  Builder builder;
  Json::sax_parse(text, &builder);
  return std::move(builder.value);
}

}  // namespace torchship

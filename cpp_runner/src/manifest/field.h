#pragma once

/// A field of a JSON document that knows its place, so that every error names it. Internal.

#include <torchship/error.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace torchship {

/// A view: the document must outlive it.
class Field {
 public:
  /// The whole document.
  explicit Field(const nlohmann::ordered_json& value) : value_(&value) {}

  [[noreturn]] void fail(const std::string& message) const {
    throw ArchiveError("the manifest" + (place_ ? "'s field '" + place(place_) + "'" : "") + ": " +
                       message);
  }

  bool is_null() const { return value_->is_null(); }
  bool is_number_float() const { return value_->is_number_float(); }
  bool is_above_int64() const {
    return value_->is_number_unsigned() && value_->get<std::uint64_t>() > INT64_MAX;
  }
  bool is_string() const { return value_->is_string(); }
  std::string dump() const { return value_->dump(); }

  /// Whether an object has this member.
  bool has(const char* key) const { return value_->is_object() && value_->contains(key); }

  /// Whether an object has this member, other than null.
  bool given(const char* key) const { return has(key) && !value_->at(key).is_null(); }

  /// Refuses an object with other members than these.
  void only(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, member] : object()) {
      if (std::ranges::find(known, key) == known.end()) {
        throw ArchiveError("the manifest has the unknown field '" + place(member.place_) + "'");
      }
    }
  }

  Field at(const std::string& key) const {
    expect(value_->is_object(), "an object");
    const auto member = value_->find(key);
    if (member == value_->end()) {
      throw ArchiveError("the manifest has no field '" +
                         (place_ ? place(place_) + "." + key : key) + "'");
    }
    return {*member, below(member.key())};
  }

  std::vector<Field> list() const {
    expect(value_->is_array(), "a list");
    std::vector<Field> fields;
    for (const auto& item : *value_) {
      fields.push_back(Field(item, below(fields.size())));
    }
    return fields;
  }

  std::vector<std::pair<std::string, Field>> object() const {
    expect(value_->is_object(), "an object");
    std::vector<std::pair<std::string, Field>> fields;
    for (const auto& [key, item] : value_->items()) {
      fields.emplace_back(key, Field(item, below(key)));
    }
    return fields;
  }

  std::string string() const {
    expect(value_->is_string(), "a string");
    return value_->get<std::string>();
  }

  bool boolean() const {
    expect(value_->is_boolean(), "true or false");
    return value_->get<bool>();
  }

  double number() const {
    expect(value_->is_number(), "a number");
    return value_->get<double>();
  }

  /// A count: an integer from 0 to 2^63 - 1.
  std::int64_t count(const char* expected) const {
    expect(value_->is_number_unsigned()
               ? value_->get<std::uint64_t>() <= INT64_MAX
               : value_->is_number_integer() && value_->get<std::int64_t>() == 0,  // -0
           expected);
    return value_->get<std::int64_t>();
  }

 private:
  /// Made a text only for a message: many fields below a long key would be many long texts.
  struct Place {
    std::shared_ptr<const Place> above;  // null below the root
    std::variant<std::string_view, std::size_t> step;
  };

  Field(const nlohmann::ordered_json& value, std::shared_ptr<const Place> place)
      : value_(&value), place_(std::move(place)) {}

  /// A key must be the document's own.
  std::shared_ptr<const Place> below(std::variant<std::string_view, std::size_t> step) const {
    return std::make_shared<const Place>(Place{place_, step});
  }

  /// `methods.forward.inputs[0]`
  static std::string place(const std::shared_ptr<const Place>& last) {
    if (!last) return "";
    std::string text = place(last->above);
    if (const auto* index = std::get_if<std::size_t>(&last->step)) {
      return text + "[" + std::to_string(*index) + "]";
    }
    return text + (text.empty() ? "" : ".") + std::string(std::get<std::string_view>(last->step));
  }

  void expect(bool fits, const char* expected) const {
    if (fits) return;
    constexpr std::size_t longest = 200;
    const std::string text = value_->dump();
    fail(std::string("expected ") + expected + ", got " +
         (text.size() > longest ? std::string(value_->type_name()) : text));
  }

  const nlohmann::ordered_json* value_;
  std::shared_ptr<const Place> place_;  // null: the root
};

}  // namespace torchship

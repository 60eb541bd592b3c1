#include "io/files/json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace engine {
namespace {

template <class Json>
std::string print(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// Nothing where it is not whole or an int64_t does not hold it.
template <class Json>
std::optional<int64_t> whole(const Json& value) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kExact = int64_t{1} << 53;
  if (value.is_number_unsigned() && value.template get<uint64_t>() > uint64_t{kMost})
    return std::nullopt;
  if (value.is_number_integer()) return value.template get<int64_t>();
  const double number = value.is_number() ? value.template get<double>() : NAN;
  if (!(std::abs(number) <= double(kExact)) || number != std::trunc(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

// The parser asks each time whether to go on.
class Tokens : public nlohmann::json_sax<nlohmann::json> {
 public:
  Tokens(JsonListener& listener, Failure kind, std::string_view what)
      : listener_(listener), kind_(kind), what_(what) {}

  bool null() override { return heard(); }
  bool boolean(bool) override { return heard(); }
  bool number_integer(number_integer_t) override { return heard(); }
  bool number_unsigned(number_unsigned_t) override { return heard(); }
  bool number_float(number_float_t, const string_t&) override { return heard(); }
  bool string(string_t&) override { return heard(); }
  bool binary(binary_t&) override { return heard(); }
  bool start_object(size_t) override { return opened(); }
  bool end_object() override { return closed(); }
  bool start_array(size_t) override { return opened(); }
  bool end_array() override { return closed(); }
  bool key(string_t& name) override {
    listener_.key(name);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& problem) override {
    fail(kind_, "{}: {}", what_, problem.what());
  }

 private:
  bool heard() {
    listener_.value();
    return true;
  }
  bool opened() {
    listener_.open();
    return true;
  }
  bool closed() {
    listener_.close();
    return true;
  }

  JsonListener& listener_;
  Failure kind_;
  std::string_view what_;
};

}  // namespace

size_t json_depth(std::string_view text) {
  size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;  // whatever is escaped ends no string
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '[' || c == '{')) {
      deepest = std::max(deepest, ++depth);
    } else if (!in_string && (c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

template <class Json>
Json parse_json(std::string_view text, Failure kind, std::string_view what) {
  require(json_depth(text) <= kDeepestJson, kind, "{}: nests deeper than {}", what, kDeepestJson);
  try {
    return Json::parse(text);
  } catch (const typename Json::exception& problem) {  // also of numbers that no double holds
    fail(kind, "{}: {}", what, problem.what());
  }
}

template <class Json>
Json json_or_null(std::string_view text) {
  if (json_depth(text) > kDeepestJson) return nullptr;
  Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json() : value;
}

template <class Int, class Json>
Int whole_number(const Json& value, Failure kind, std::string_view what) {
  const std::optional<int64_t> number = whole(value);
  require(number && std::in_range<Int>(*number), kind, "{} {} is no whole number", what,
          print_json(value));
  return static_cast<Int>(*number);
}

template int whole_number(const nlohmann::json&, Failure, std::string_view);
template int64_t whole_number(const nlohmann::json&, Failure, std::string_view);
template int whole_number(const nlohmann::ordered_json&, Failure, std::string_view);
template int64_t whole_number(const nlohmann::ordered_json&, Failure, std::string_view);

template nlohmann::json parse_json(std::string_view, Failure, std::string_view);
template nlohmann::ordered_json parse_json(std::string_view, Failure, std::string_view);
template nlohmann::json json_or_null(std::string_view);
template nlohmann::ordered_json json_or_null(std::string_view);

void walk_json(std::string_view text, JsonListener& listener, Failure kind, std::string_view what) {
  Tokens tokens(listener, kind, what);
  nlohmann::json::sax_parse(text, &tokens);
}

std::string print_json(const nlohmann::json& value, int indent) {
  return print(value, indent);
}

std::string print_json(const nlohmann::ordered_json& value, int indent) {
  return print(value, indent);
}

std::string print_utf8_json(const nlohmann::json& value, Failure kind, std::string_view what) {
  try {
    return value.dump();
  } catch (const nlohmann::json::type_error& problem) {
    fail(kind, "{}: {}", what, problem.what());
  }
}

}  // namespace engine

#include "io/files/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace engine {
namespace {

template <class Json>
std::string print(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
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

// Numbers of JSON that are to be whole, and how deep a text may nest.
#include "io/files/json.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

using namespace engine;

namespace {

// What refuses it says; empty where nothing does.
template <class Body>
std::string refusal(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

template <class Int>
Int whole(const std::string& text) {
  return whole_number<Int>(parse_json<nlohmann::json>(text), Failure::weights, "layers");
}

}  // namespace

TEST_CASE("a whole number is what its type holds") {
  CHECK(whole<int>("3") == 3);
  CHECK(whole<int>("3.0") == 3);
  CHECK(whole<int>("-2147483648") == INT32_MIN);
  CHECK(whole<int64_t>("9223372036854775807") == INT64_MAX);
  CHECK(whole<int64_t>("9007199254740992.0") == int64_t{1} << 53);
  for (const char* text : {"2147483648", "-2147483649", "1e100", "3.5", "true", "\"3\"", "null"}) {
    CAPTURE(text);
    CHECK(refusal([&] { whole<int>(text); }).ends_with(" is no whole number"));
  }
  for (const char* text : {"9223372036854775808", "1.1e100", "-1e300", "1e19", "1.8e16"}) {
    CAPTURE(text);
    CHECK(refusal([&] { whole<int64_t>(text); }).ends_with(" is no whole number"));
  }
}

TEST_CASE("a text that nests too deep is refused before anything is made of it") {
  const std::string open(kDeepestJson, '['), close(kDeepestJson, ']');
  CHECK(parse_json<nlohmann::json>(open + close).is_array());
  const std::string deeper = "[" + open + close + "]";
  CHECK(refusal([&] { parse_json<nlohmann::json>(deeper, Failure::data, "x"); }) ==
        "x: nests deeper than 16");
}

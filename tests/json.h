// JSON in tests: recorded values, and how doctest prints a value.
#pragma once

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "io/files/json.h"

namespace engine::test {

// A file of tests/golden, which must be there.
nlohmann::json golden(std::string_view name);

}  // namespace engine::test

// Without these every source with a CHECK of a value compiles nlohmann's printer.
template <>
struct doctest::StringMaker<nlohmann::json> {
  static String convert(const nlohmann::json& value);
};
template <>
struct doctest::StringMaker<nlohmann::ordered_json> {
  static String convert(const nlohmann::ordered_json& value);
};

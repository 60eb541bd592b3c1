#include "tests/json.h"

#include <fstream>
#include <iterator>
#include <string>

namespace engine::test {

nlohmann::json golden(std::string_view name) {
  std::ifstream file(ENGINE_SOURCE_DIR "/tests/golden/" + std::string(name));
  REQUIRE(file);
  return parse_json<nlohmann::json>(std::string(std::istreambuf_iterator<char>(file), {}));
}

}  // namespace engine::test

doctest::String doctest::StringMaker<nlohmann::json>::convert(const nlohmann::json& value) {
  return engine::print_json(value).c_str();
}

doctest::String doctest::StringMaker<nlohmann::ordered_json>::convert(
    const nlohmann::ordered_json& value) {
  return engine::print_json(value).c_str();
}

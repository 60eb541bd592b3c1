#include "tools/score/metadata.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "io/weights/weight_names.h"

namespace engine {

namespace fs = std::filesystem;

std::string to_json(const std::vector<std::string>& names) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& name : names) list.push_back(utf8_from_bytes(name));
  return print_json(list);
}

std::vector<std::string> names_from_json(const std::string& text, const fs::path& path) {
  const auto json = json_or_null<nlohmann::json>(text);
  const auto is_string = [](const nlohmann::json& j) { return j.is_string(); };
  require(json.is_array() && std::all_of(json.begin(), json.end(), is_string), Failure::weights,
          "{}: the class names in its metadata are no JSON array of strings", path.string());
  std::vector<std::string> names;
  for (const auto& name : json) names.push_back(bytes_from_utf8(name.get<std::string>()));
  return names;
}

std::optional<double> norm_epsilon_of(const std::map<std::string, std::string>& metadata,
                                      const fs::path& path) {
  const auto found = metadata.find(kNormEpsilon);
  if (found == metadata.end()) return std::nullopt;
  const std::string& text = found->second;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size() && value > 0 && value < 1,
          Failure::weights, "{}: '{}' in its metadata is no epsilon of norms", path.string(), text);
  return value;
}

}  // namespace engine

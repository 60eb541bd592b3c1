#include "tools/cli/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/error.h"
#include "io/files/json.h"
#include "io/files/utf8.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

Json scalar(const YAML::Node& node) {
  return node.IsNull() ? Json() : Json(utf8_from_bytes(node.Scalar()));
}

Json value_of(const YAML::Node& node, const std::string& from, const std::string& name) {
  const auto is_value = [](const YAML::Node& n) { return n.IsScalar() || n.IsNull(); };
  if (is_value(node)) return scalar(node);
  require(node.IsSequence() && std::all_of(node.begin(), node.end(), is_value), Failure::usage,
          "{}: {}: a value or a list of values is wanted", from, name);
  Json list = Json::array();
  for (const YAML::Node& element : node) list.push_back(scalar(element));
  return list;
}

Json object_of(const YAML::Node& root, const std::string& from) {
  require(root.IsMap(), Failure::usage, "{}: no mapping of flags to values", from);
  Json json = Json::object();
  for (const auto& member : root) {
    require(member.first.IsScalar(), Failure::usage, "{}: the name of a flag is wanted", from);
    std::string name = member.first.Scalar();
    std::replace(name.begin(), name.end(), '-', '_');
    json[utf8_from_bytes(name)] = value_of(member.second, from, name);
  }
  return json;
}

}  // namespace

std::string json_from_yaml(const std::string& text, const std::string& from) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    require(documents.size() == 1, Failure::usage, "{}: {} documents; one is wanted", from,
            documents.size());
    return print_json(object_of(documents[0], from));
  } catch (const YAML::Exception& error) {
    fail(Failure::usage, "{}: {}", from, error.what());
  }
}

}  // namespace engine

#include "tools/cli/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string_view>

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

// Whether a mark of a document's begin, which may stand in no value, follows some content.
// (LoadAll() of yaml-cpp never ends on some texts.)
bool has_second_document(std::string_view text) {
  bool content = false;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const bool mark = line.starts_with("---") &&
                      (line.size() == 3 || std::isspace(static_cast<unsigned char>(line[3])));
    if (mark && content) return true;
    const size_t first = line.find_first_not_of(" \t\r");
    const bool empty = first == std::string_view::npos || line[first] == '#' || line[0] == '%';
    content = content || mark || !empty;
  }
  return false;
}

}  // namespace

std::string json_from_yaml(const std::string& text, const std::string& from) {
  try {
    require(!has_second_document(text), Failure::usage, "{}: several documents; one is wanted",
            from);
    return print_json(object_of(YAML::Load(text), from));
  } catch (const YAML::Exception& error) {
    fail(Failure::usage, "{}: {}", from, error.what());
  }
}

}  // namespace engine

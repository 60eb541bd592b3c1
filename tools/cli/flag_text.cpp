#include "tools/cli/flag_text.h"

#include <nlohmann/json.hpp>

#include "io/files/json.h"
#include "tools/cli/json_text.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

std::vector<std::string> words_of(const Flags& flags, const std::set<std::string>& keys) {
  const Json values = parse_json<Json>(to_json(flags));
  std::vector<std::string> words, positional;
  for (const Flag& flag : flags.list()) {
    if (!keys.contains(flag.key())) continue;
    const Json& value = values.at(flag.key());
    if (flag.positional()) {
      for (const Json& one : value.is_array() ? value : Json::array({value}))
        positional.push_back(text_of(one));
    } else if (flag.is_switch()) {
      words.push_back(value == true ? flag.name() : flag.name() + "=false");
    } else if (const std::string text = text_of(value); text.starts_with('-')) {
      words.push_back(flag.name() + '=' + text);  // else it would look like another flag
    } else {
      words.insert(words.end(), {flag.name(), text});
    }
  }
  if (!positional.empty()) words.emplace_back("--");
  words.insert(words.end(), positional.begin(), positional.end());
  return words;
}

}  // namespace engine

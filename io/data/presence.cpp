#include "io/data/presence.h"

#include <algorithm>

#include "engine/error.h"

namespace engine {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n\v\f";
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

Presence parse_presence(std::string_view text, const std::function<std::string()>& where) {
  const std::string_view value = trimmed(text);
  if (value.empty()) return Presence::missing;
  if (value == "1" || value == "1.0") return Presence::present;
  if (value == "0" || value == "0.0") return Presence::absent;
  fail(Failure::data, "{}: \"{}\" is neither 1 nor 0, nor nothing where it is not known", where(),
       text);
}

std::vector<std::string> parse_label_list(std::string_view text, std::string_view separator,
                                          const std::function<std::string()>& where) {
  std::vector<std::string> labels;
  if (trimmed(text).empty()) return labels;
  for (std::string_view rest = text;;) {
    const size_t end = rest.find(separator);
    std::string label(trimmed(rest.substr(0, end)));
    require(!label.empty(), Failure::data, "{}: \"{}\" has an empty label", where(), text);
    require(std::ranges::find(labels, label) == labels.end(), Failure::data,
            "{}: \"{}\" has {} twice", where(), text, label);
    labels.push_back(std::move(label));
    if (end == std::string_view::npos) return labels;
    rest.remove_prefix(end + separator.size());
  }
}

}  // namespace engine

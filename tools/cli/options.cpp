#include "tools/cli/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "engine/error.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

// ---- texts

std::string number_text(auto value) {
  return fmt::format("{}", value);
}

std::string range_text(const Within& range) {
  const bool least = std::isfinite(range.least), most = std::isfinite(range.most);
  if (least && most) return fmt::format("{} to {}", range.least, range.most);
  if (least) return fmt::format("at least {}", range.least);
  if (most) return fmt::format("at most {}", range.most);
  return "";
}

std::string text_of(bool value) {
  return value ? "true" : "";
}
std::string text_of(const std::string& value) {
  return value;
}
std::string text_of(const std::filesystem::path& value) {
  return value.string();
}
std::string text_of(const std::vector<std::string>& value) {
  return fmt::format("{}", fmt::join(value, " "));
}
template <class T>
requires std::is_arithmetic_v<T> std::string text_of(T value) {
  return number_text(value);
}
template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : "";
}

// As the help shows it; empty if there is nothing to show.
std::string current_text(const Field& field) {
  return std::visit(Overloaded{[](const Enumeration& e) {
                                 const auto i = e.get();
                                 return i ? e.names[*i] : std::string();
                               },
                               [](const auto* value) { return text_of(*value); }},
                    field);
}

// ---- values

// What is wrong with a value is reported by the caller, which knows the flag.
struct BadValue {
  std::string why;
};

template <class T>
T parse_number(std::string_view text, const Within& range, const char* expected) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::invalid_argument || end != text.data() + text.size())
    throw BadValue{expected};
  const bool fits = error == std::errc() && std::isfinite(static_cast<double>(value));
  if (!fits || static_cast<double>(value) < range.least ||
      static_cast<double>(value) > range.most) {
    const std::string allowed = range_text(range);
    throw BadValue{allowed.empty()
                       ? "does not fit, at most " + number_text(std::numeric_limits<T>::max())
                       : "allowed is " + allowed};
  }
  return value;
}

void parse_value(bool& value, std::string_view text, const Within&) {
  if (text != "true" && text != "false") throw BadValue{"true or false"};
  value = text == "true";
}
void parse_value(std::string& value, std::string_view text, const Within&) {
  value = text;
}
void parse_value(std::filesystem::path& value, std::string_view text, const Within&) {
  value = text;
}
void parse_value(std::vector<std::string>& value, std::string_view text, const Within&) {
  value.emplace_back(text);
}
template <class T>
requires std::is_floating_point_v<T>
void parse_value(T& value, std::string_view text, const Within& range) {
  const double wide = parse_number<double>(text, range, "not a number");
  value = static_cast<T>(wide);
  if (!std::isfinite(value))
    throw BadValue{"does not fit, at most " + number_text(std::numeric_limits<T>::max())};
}
template <class T>
requires std::is_integral_v<T>
void parse_value(T& value, std::string_view text, const Within& range) {
  value = parse_number<T>(
      text, range, std::is_signed_v<T> ? "not a whole number" : "not a whole number from 0 on");
}
template <class T>
void parse_value(std::optional<T>& value, std::string_view text, const Within& range) {
  parse_value(value.emplace(), text, range);
}

void parse_value(const Enumeration& e, std::string_view text) {
  const auto at = std::find(e.names.begin(), e.names.end(), text);
  if (at == e.names.end()) throw BadValue{fmt::format("one of {}", fmt::join(e.names, ", "))};
  e.set(static_cast<size_t>(at - e.names.begin()));
}

void set(const Flag& flag, std::string_view text) {
  try {
    std::visit(Overloaded{[&](const Enumeration& e) { parse_value(e, text); },
                          [&](auto* value) { parse_value(*value, text, flag.range); }},
               flag.field);
  } catch (const BadValue& bad) {
    fail(Failure::usage, "{} '{}': {}", flag.name(), text, bad.why);
  }
}

bool is_switch(const Flag& flag) {
  return std::holds_alternative<bool*>(flag.field);
}
bool takes_all(const Flag& flag) {
  return std::holds_alternative<std::vector<std::string>*>(flag.field);
}

// ---- the help's layout

template <class T>
constexpr const char* kPlaceholder = "N";
template <>
constexpr const char* kPlaceholder<bool> = "";
template <>
constexpr const char* kPlaceholder<float> = "X";
template <>
constexpr const char* kPlaceholder<double> = "X";
template <>
constexpr const char* kPlaceholder<std::string> = "TEXT";
template <>
constexpr const char* kPlaceholder<std::vector<std::string>> = "TEXT";
template <>
constexpr const char* kPlaceholder<std::filesystem::path> = "PATH";
template <class T>
constexpr const char* kPlaceholder<std::optional<T>> = kPlaceholder<T>;

std::string default_placeholder(const Field& field) {
  return std::visit(
      Overloaded{[](const Enumeration& e) { return fmt::format("{}", fmt::join(e.names, "|")); },
                 []<class T>(const T*) { return std::string(kPlaceholder<T>); }},
      field);
}

constexpr size_t kHelpColumn = 32, kHelpWidth = 100;

// Breaks `text` into lines that start at the help column; the first one continues a line of `used` characters.
std::string wrapped(std::string_view text, size_t used) {
  std::string out;
  size_t column = used;
  const auto new_line = [&] {
    out += '\n';
    out.append(kHelpColumn, ' ');
    column = kHelpColumn;
  };
  if (column + 2 > kHelpColumn)
    new_line();
  else
    out.append(kHelpColumn - column, ' '), column = kHelpColumn;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (word.empty()) continue;
    if (column > kHelpColumn && column + 1 + word.size() > kHelpWidth) new_line();
    if (column > kHelpColumn) out += ' ', ++column;
    out += word;
    column += word.size();
  }
  return out + '\n';
}

std::string notes(const Flag& flag) {
  std::vector<std::string> parts;
  const std::string text = current_text(flag.field);
  if (flag.required)
    parts.push_back("required");
  else if (!text.empty())
    parts.push_back("default " + text);
  if (const std::string range = range_text(flag.range); !range.empty()) parts.push_back(range);
  if (!flag.suggestions.empty())
    parts.push_back(fmt::format("known: {}", fmt::join(flag.suggestions, ", ")));
  return parts.empty() ? "" : fmt::format(" ({})", fmt::join(parts, "; "));
}

std::string help_line(const Flag& flag) {
  std::string left = "  ";
  if (!flag.positional() && flag.names.front().starts_with("--")) left += "    ";  // under "-b, "
  left += fmt::format("{}", fmt::join(flag.names, ", "));
  if (!flag.positional() && !flag.placeholder.empty()) left += ' ' + flag.placeholder;
  return left + wrapped(flag.help + notes(flag), left.size());
}

// ---- parsing

const Flag* find_flag(const Flags& flags, std::string_view name) {
  for (const Flag& flag : flags.list())
    if (!flag.positional() &&
        std::find(flag.names.begin(), flag.names.end(), name) != flag.names.end())
      return &flag;
  return nullptr;
}

[[noreturn]] void unknown_flag(const Flags& flags, std::string_view name) {
  std::vector<std::string> names;
  for (const Flag& flag : flags.list())
    if (!flag.positional()) names.insert(names.end(), flag.names.begin(), flag.names.end());
  const auto near = nearest(name, names);
  fail(Failure::usage, "unknown flag {}{}", name,
       near ? fmt::format(", did you mean {}?", *near) : "");
}

class Parser {
 public:
  Parser(const Flags& flags, std::span<const std::string> arguments)
      : flags_(flags), arguments_(arguments) {}

  // `configured`: flags that have a value already.
  void run(const std::set<const Flag*>& configured) {
    bool flags_ended = false;
    while (!arguments_.empty()) {
      const std::string_view word = take();
      if (flags_ended || word.size() < 2 || word.front() != '-')
        positional(word);
      else if (word == "--")
        flags_ended = true;
      else
        named(word);
    }
    for (const Flag& flag : flags_.list())
      require(!flag.required || given_.contains(&flag) || configured.contains(&flag),
              Failure::usage, "{} is missing: {}", flag.name(), flag.help);
  }

 private:
  std::string_view take() {
    const std::string_view word = arguments_.front();
    arguments_ = arguments_.subspan(1);
    return word;
  }

  void named(std::string_view word) {
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const Flag* flag = find_flag(flags_, name);
    if (!flag) unknown_flag(flags_, name);
    given_.insert(flag);
    if (equals != std::string_view::npos) return set(*flag, word.substr(equals + 1));
    if (is_switch(*flag)) return set(*flag, "true");
    // A path or name may begin with a dash, but then it is more likely that the value was forgotten.
    require(!arguments_.empty() && !arguments_.front().starts_with("--"), Failure::usage,
            "{} needs a value: {} {}", flag->name(), flag->name(), flag->placeholder);
    set(*flag, take());
  }

  void positional(std::string_view word) {
    for (const Flag& flag : flags_.list())
      if (flag.positional() && (takes_all(flag) || !given_.contains(&flag))) {
        const bool first = given_.insert(&flag).second;
        if (auto* all = std::get_if<std::vector<std::string>*>(&flag.field); all && first)
          (*all)->clear();
        return set(flag, word);
      }
    fail(Failure::usage, "unexpected argument '{}'", word);
  }

  const Flags& flags_;
  std::span<const std::string> arguments_;
  std::set<const Flag*> given_;
};

// ---- JSON

Json json_of(const auto& value) {
  return value;
}
Json json_of(const std::filesystem::path& value) {
  return value.string();
}
// The shortest decimal that is this float, not its double's 17 digits.
Json json_of(float value) {
  return std::stod(number_text(value));
}
template <class T>
Json json_of(const std::optional<T>& value) {
  return value ? json_of(*value) : Json();
}

Json json_value(const Field& field) {
  return std::visit(Overloaded{[](const Enumeration& e) {
                                 const auto i = e.get();
                                 return i ? Json(e.names[*i]) : Json();
                               },
                               [](const auto* value) { return json_of(*value); }},
                    field);
}

std::string json_key(std::string name) {
  name.erase(0, name.find_first_not_of('-'));
  std::replace(name.begin(), name.end(), '-', '_');
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return name;
}

// ---- a config file

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// The file belongs into the message.
bool with_origin(const std::string& from, const std::function<bool()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    fail(error.kind, "{}: {}", from, error.what());
  }
}

// Whether the member says anything: null, "" and [] leave the default.
bool set_member(const Flag& flag, const Json& value) {
  if (value.is_null() || value.empty() || value == "") return false;
  if (auto* all = std::get_if<std::vector<std::string>*>(&flag.field)) {
    require(value.is_array(), Failure::usage, "{}: a list of strings is wanted", flag.name());
    (*all)->clear();
    for (const Json& element : value) (*all)->push_back(text_of(element));
  } else {
    require(value.is_primitive(), Failure::usage, "{}: one value is wanted", flag.name());
    set(flag, text_of(value));
  }
  return true;
}

std::set<const Flag*> set_members(const Flags& flags, const Config& config) {
  const Json json = Json::parse(config.json, nullptr, false);
  require(json.is_object(), Failure::usage, "{}: no JSON object", config.from);
  std::map<std::string, const Flag*> known;
  for (const Flag& flag : flags.list()) known[json_key(flag.name())] = &flag;
  std::set<const Flag*> configured;
  std::vector<std::string> unknown;
  for (const auto& [key, value] : json.items()) {
    const auto flag = known.find(key);
    if (flag == known.end())
      unknown.push_back(key);
    else if (with_origin(config.from, [&] { return set_member(*flag->second, value); }))
      configured.insert(flag->second);
  }
  require(unknown.empty(), Failure::usage, "{}: no such flags here: {}", config.from,
          fmt::join(unknown, ", "));
  return configured;
}

// Levenshtein's distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

}  // namespace

const std::string& Flag::name() const {
  const auto is_long = [](const std::string& name) { return name.starts_with("--"); };
  const auto at = std::find_if(names.begin(), names.end(), is_long);
  return at == names.end() ? names.front() : *at;
}

Flag& Flags::add(std::string_view names, std::string_view help, Field field) {
  Flag flag{.group = group_, .help = std::string(help), .field = std::move(field)};
  while (!names.empty()) {
    const std::string_view word = names.substr(0, names.find(' '));
    names.remove_prefix(std::min(names.size(), word.size() + 1));
    if (flag.names.empty() || word.front() == '-')
      flag.names.emplace_back(word.substr(0, word.find(',')));
    else
      flag.placeholder = word;
  }
  if (flag.placeholder.empty()) flag.placeholder = default_placeholder(flag.field);
  return list_.emplace_back(std::move(flag));
}

void parse_flags(const Flags& flags, std::span<const std::string> arguments,
                 const std::optional<Config>& config) {
  Parser(flags, arguments).run(config ? set_members(flags, *config) : std::set<const Flag*>{});
}

std::optional<Config> read_config(std::span<const std::string> arguments) {
  std::optional<std::string> path;
  for (size_t i = 0; i < arguments.size() && arguments[i] != "--"; ++i) {
    if (arguments[i].starts_with("--config=")) path = arguments[i].substr(9);
    if (arguments[i] == "--config" && i + 1 < arguments.size()) path = arguments[i + 1];
  }
  if (!path) return std::nullopt;
  std::ifstream in(*path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  require(!text.empty(), Failure::usage, "--config {}: empty, or cannot be read", *path);
  return Config{text, "--config " + *path};
}

std::vector<FlagFacts> facts_of(const Flags& flags) {
  std::vector<FlagFacts> all;
  for (const Flag& flag : flags.list()) {
    using Value = FlagFacts::Value;
    FlagFacts facts{.names = flag.names,
                    .placeholder = flag.placeholder,
                    .help = flag.help,
                    .positional = flag.positional(),
                    .repeated = takes_all(flag)};
    const auto* choices = std::get_if<Enumeration>(&flag.field);
    const bool path = std::holds_alternative<std::filesystem::path*>(flag.field) ||
                      std::holds_alternative<std::optional<std::filesystem::path>*>(flag.field) ||
                      takes_all(flag);
    if (choices) facts.choices = choices->names;
    if (!flag.suggestions.empty()) facts.choices = flag.suggestions;
    facts.value = !facts.choices.empty() ? Value::choice
                  : is_switch(flag)      ? Value::none
                  : path                 ? Value::path
                                         : Value::other;
    all.push_back(std::move(facts));
  }
  return all;
}

std::string help_text(const Flags& flags, const Command& command) {
  std::string usage = fmt::format("engine {}", command.verb), body;
  for (const Flag& flag : flags.list())
    if (flag.required && !flag.positional())
      usage += fmt::format(" {} {}", flag.name(), flag.placeholder);
  usage += " [--flag value]...";
  for (const Flag& flag : flags.list())
    if (flag.positional()) {
      const std::string name = flag.name() + (takes_all(flag) ? "..." : "");
      usage += flag.required ? ' ' + name : " [" + name + ']';
    }
  const std::string* group = nullptr;
  for (const Flag& flag : flags.list()) {
    if (!group || *group != flag.group)
      body += fmt::format("\n{}\n", flag.group.empty() ? "Flags" : flag.group);
    group = &flag.group;
    body += help_line(flag);
  }
  return fmt::format("engine {}: {}\n\nusage: {}\n{}", command.verb, command.about, usage, body);
}

std::string to_json(const Flags& flags) {
  Json json = Json::object();
  for (const Flag& flag : flags.list()) json[json_key(flag.name())] = json_value(flag.field);
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates) {
  const std::string* best = nullptr;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // The beginning of a name, --batch for --batch-size, counts as one slip.
    const bool begins = word.size() > 3 && candidate.starts_with(word);
    const size_t distance = begins ? 1 : edit_distance(word, candidate);
    if (distance < least && 2 * distance <= std::max(word.size(), candidate.size()))
      best = &candidate, least = distance;
  }
  return best ? std::optional(*best) : std::nullopt;
}

bool asks_for_help(const Command& command) {
  for (const std::string& argument : command.arguments) {
    if (argument == "--") return false;
    if (argument == "--help" || argument == "-h") return true;
  }
  return false;
}

void print_to_stdout(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace engine

#include "tools/cli/options.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "engine/error.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/cli/flag_text.h"
#include "tools/cli/json_text.h"
#include "tools/cli/yaml.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

constexpr size_t kMostConfigBytes = 16 << 20;

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
    const std::string allowed = to_string(range);
    throw BadValue{allowed.empty()
                       ? fmt::format("does not fit, at most {}", std::numeric_limits<T>::max())
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
    throw BadValue{fmt::format("does not fit, at most {}", std::numeric_limits<T>::max())};
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

// What names have in common that differ in case, dashes and underscores only.
std::string plain(std::string_view name) {
  std::string text(name);
  std::ranges::transform(text, text.begin(), [](unsigned char c) {
    return c == '_' ? '-' : static_cast<char>(std::tolower(c));
  });
  return text;
}

void parse_value(const Enumeration& e, std::string_view text) {
  const auto at = std::ranges::find(e.names, plain(text), plain);
  if (at == e.names.end()) throw BadValue{fmt::format("one of {}", fmt::join(e.names, ", "))};
  e.set(static_cast<size_t>(at - e.names.begin()));
}

// The letters and digits alone.
std::string bare(std::string_view name) {
  std::string text = plain(name);
  std::erase(text, '-');
  return text;
}

// The known value that is meant by another spelling of it, else the text: EfficientNet-B0 and
// efficientnetb0 are efficientnet_b0.
std::string_view known_spelling(const Flag& flag, std::string_view text) {
  const auto at = std::ranges::find(flag.suggestions, bare(text), bare);
  return at == flag.suggestions.end() ? text : *at;
}

// Whether the value is a file or a folder, perhaps with words beside it: "FILE|NAME".
bool is_place(const Flag& flag) {
  return std::holds_alternative<std::filesystem::path*>(flag.field) ||
         std::holds_alternative<std::optional<std::filesystem::path>*>(flag.field) ||
         flag.placeholder.find('|') != std::string::npos;
}

void set(const Flag& flag, std::string_view text) {
  try {
    // As a variable of a shell that is not set leaves it.
    if (text.empty() && is_place(flag)) throw BadValue{"empty"};
    text = known_spelling(flag, text);
    std::visit(Overloaded{[&](const Enumeration& e) { parse_value(e, text); },
                          [&](auto* value) { parse_value(*value, text, flag.range); }},
               flag.field);
  } catch (const BadValue& bad) {
    fail(Failure::usage, "{} '{}': {}", flag.name(), text, bad.why);
  }
}

// ---- the placeholder of a value

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

// ---- parsing

// What timm, torchvision's references, ultralytics and fastai call a flag of ours. Where ours has a
// value, too, it is the answer to theirs; else theirs is taken for ours.
struct PeerName {
  std::string_view theirs, ours;
};
constexpr PeerName kPeerNames[] = {{"--imgsz", "--image-size"},
                                   {"--bs", "--batch-size"},
                                   {"--lr0", "--lr"},
                                   {"--optim", "--optimizer"},
                                   {"--num-workers", "--workers"},
                                   {"--data-dir", "--data"},
                                   {"--data-path", "--data"},
                                   {"--pretrained", "--weights imagenet"},
                                   {"--amp", "--precision fp16"},
                                   {"--cos-lr", "--schedule cosine"}};

const Flag* find_exactly(const Flags& flags, std::string_view name) {
  for (const Flag& flag : flags.list())
    if (!flag.positional() && std::ranges::find(flag.names, name) != flag.names.end()) return &flag;
  return nullptr;
}

const PeerName* find_peer(std::string_view name) {
  const auto at = std::ranges::find(kPeerNames, plain(name), &PeerName::theirs);
  return at == std::end(kPeerNames) ? nullptr : at;
}

// --batch_size is --batch-size.
const Flag* find_flag(const Flags& flags, std::string_view name) {
  if (const Flag* flag = find_exactly(flags, name)) return flag;
  if (!name.starts_with("--")) return nullptr;
  const PeerName* peer = find_peer(name);
  return find_exactly(flags, peer ? peer->ours : plain(name));
}

[[noreturn]] void unknown_flag(const Flags& flags, std::string_view name) {
  if (const PeerName* peer = find_peer(name);
      peer && find_exactly(flags, peer->ours.substr(0, peer->ours.find(' '))))
    fail(Failure::usage, "unknown flag {}; here it is {}", name, peer->ours);
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

  // `configured`: flags that have a value already. Returns these and those that are given here.
  std::set<const Flag*> run(std::set<const Flag*> configured) {
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
    configured.merge(given_);
    return configured;
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
    if (flag->is_switch()) return set(*flag, "true");
    // A path or a name may begin with a dash, but it is more likely that the value was forgotten.
    require(!arguments_.empty() && !arguments_.front().starts_with("--"), Failure::usage,
            "{} needs a value: {} {}", flag->name(), flag->name(), flag->placeholder);
    set(*flag, take());
  }

  void positional(std::string_view word) {
    for (const Flag& flag : flags_.list())
      if (flag.positional() && (flag.takes_all() || !given_.contains(&flag))) {
        const bool first = given_.insert(&flag).second;
        if (auto* all = std::get_if<std::vector<std::string>*>(&flag.field); all && first)
          (*all)->clear();
        return set(flag, word);
      }
    std::error_code error;
    const bool images =
        find_exactly(flags_, "--data") && std::filesystem::is_directory(word, error);
    fail(Failure::usage, "unexpected argument '{}'{}", word,
         images ? fmt::format("; did you mean --data {}?", word) : "");
  }

  const Flags& flags_;
  std::span<const std::string> arguments_;
  std::set<const Flag*> given_;
};

// ---- JSON

Json json_of(const auto& value) {
  return value;
}
// Names may be any bytes, JSON is UTF-8.
Json json_of(const std::string& value) {
  return utf8_from_bytes(value);
}
Json json_of(const std::filesystem::path& value) {
  return utf8_from_bytes(value.string());
}
Json json_of(const std::vector<std::string>& values) {
  Json list = Json::array();
  for (const std::string& value : values) list.push_back(utf8_from_bytes(value));
  return list;
}
// The shortest decimal that is this float, not its double's 17 digits.
Json json_of(float value) {
  return std::stod(fmt::format("{}", value));
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

// ---- a config file

// Puts the file into the message of an Error.
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
    for (const Json& element : value) {
      require(element.is_primitive(), Failure::usage, "{}: a list of strings is wanted",
              flag.name());
      (*all)->push_back(text_of(element));
    }
  } else {
    require(value.is_primitive(), Failure::usage, "{}: one value is wanted", flag.name());
    set(flag, text_of(value));
  }
  return true;
}

std::set<const Flag*> set_members(const Flags& flags, const Config& config) {
  constexpr size_t kDeepest = 2;  // flags are values and lists of them
  require(json_depth(config.json) <= kDeepest, Failure::usage,
          "{}: it nests deeper than lists of values", config.from);
  const Json json = json_or_null<Json>(config.json);
  require(json.is_object(), Failure::usage, "{}: no JSON object", config.from);
  std::map<std::string, const Flag*> known;
  for (const Flag& flag : flags.list())
    if (flag.name() != "--config" && flag.name() != "--help") known[flag.key()] = &flag;
  std::set<const Flag*> configured;
  std::vector<std::string> unknown;
  for (const auto& member : json.items()) {
    const auto flag = known.find(member.key());
    if (flag == known.end())
      unknown.push_back(member.key());
    else if (with_origin(config.from, [&] { return set_member(*flag->second, member.value()); }))
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

std::string to_string(const Within& range) {
  const bool least = std::isfinite(range.least), most = std::isfinite(range.most);
  if (least && most) return fmt::format("{} to {}", range.least, range.most);
  if (least) return fmt::format("at least {}", range.least);
  if (most) return fmt::format("at most {}", range.most);
  return "";
}

const std::string& Flag::name() const {
  const auto is_long = [](const std::string& name) { return name.starts_with("--"); };
  const auto at = std::find_if(names.begin(), names.end(), is_long);
  return at == names.end() ? names.front() : *at;
}

std::string Flag::key() const {
  std::string key = name().substr(name().find_first_not_of('-'));
  std::replace(key.begin(), key.end(), '-', '_');
  std::transform(key.begin(), key.end(), key.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return key;
}

bool Flag::is_switch() const {
  return std::holds_alternative<bool*>(field);
}

bool Flag::takes_all() const {
  return std::holds_alternative<std::vector<std::string>*>(field);
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

std::set<std::string> parse_given_flags(const Flags& flags, std::span<const std::string> arguments,
                                        const std::optional<Config>& config) {
  std::set<std::string> keys;
  for (const Flag* flag :
       Parser(flags, arguments).run(config ? set_members(flags, *config) : std::set<const Flag*>{}))
    keys.insert(flag->key());
  return keys;
}

void parse_flags(const Flags& flags, std::span<const std::string> arguments,
                 const std::optional<Config>& config) {
  parse_given_flags(flags, arguments, config);
}

std::optional<Config> read_config(std::span<const std::string> arguments) {
  std::optional<std::string> path;
  for (size_t i = 0; i < arguments.size() && arguments[i] != "--"; ++i) {
    if (arguments[i].starts_with("--config=")) path = arguments[i].substr(9);
    if (arguments[i] == "--config" && i + 1 < arguments.size()) path = arguments[i + 1];
  }
  if (!path) return std::nullopt;
  std::error_code error;
  require(!std::filesystem::is_directory(*path, error), Failure::usage,
          "--config {}: a folder; the name of a file is wanted", *path);
  std::ifstream in(*path, std::ios::binary);
  require(in.good(), Failure::usage, "--config {}: {}", *path, std::strerror(errno));
  std::string text(kMostConfigBytes + 1, 0);  // a pipe or a device need not have an end
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  require(text.size() <= kMostConfigBytes, Failure::usage, "--config {}: more than {} bytes", *path,
          kMostConfigBytes);
  require(!text.empty(), Failure::usage, "--config {}: empty", *path);
  const std::string from = "--config " + *path;
  const bool yaml = path->ends_with(".yaml") || path->ends_with(".yml");
  return Config{yaml ? json_from_yaml(text, from) : text, from};
}

std::string to_json(const Flags& flags) {
  Json json = Json::object();
  for (const Flag& flag : flags.list()) json[flag.key()] = json_value(flag.field);
  return print_json(json, 2);
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

void print_to_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail_stdout();
}

}  // namespace engine

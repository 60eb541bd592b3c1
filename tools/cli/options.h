// Command-line flags. A verb's options name their fields once, in visit(); that list gives the
// defaults, the parsing, --help and args.json:
//
//   struct TrainOptions {
//     std::string model = "efficientnet_b3";
//     int batch_size = 64;
//     void visit(auto& v) {
//       v.group("Model");
//       v("--model NAME", model, "what to train");
//       v("-b, --batch-size N", batch_size, "images per rank and step", Within{1, 65536});
//     }
//   };
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "tools/cli/terminal.h"

namespace engine {

// Rules of a flag stand in any order after its help text.

// The range of a number; both ends are allowed.
struct Within {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
};
std::string to_string(const Within& range);  // "1 to 10", "at least 1"; empty without an end

struct Required {};
inline constexpr Required kRequired;

// A run that is resumed may have another value, and nothing is said of it.
struct MayChange {};
inline constexpr MayChange kMayChange;

// Values that shells offer; others are allowed.
struct Suggest {
  std::vector<std::string> values;
};

// A row of the table of names that an enum field needs; the table is a constant.
template <class Enum>
struct Choice {
  std::string_view name;
  Enum value;
};

inline constexpr Choice<ColourMode> kColourModes[] = {
    {"auto", ColourMode::automatic}, {"always", ColourMode::always}, {"never", ColourMode::never}};

// An enum field behind its table; its values are positions in `names`.
struct Enumeration {
  std::vector<std::string> names;
  std::function<void(size_t)> set;
  std::function<std::optional<size_t>()> get;
};

// What a field may be. A bool is a flag without a value (or --flag=true|false); a vector takes
// every positional argument that is left; an optional is empty until its flag is given.
using Field = std::variant<bool*, int*, int64_t*, uint64_t*, float*, double*, std::string*,
                           std::filesystem::path*, std::vector<std::string>*, std::optional<int>*,
                           std::optional<int64_t>*, std::optional<uint64_t>*, std::optional<float>*,
                           std::optional<double>*, std::optional<std::string>*,
                           std::optional<std::filesystem::path>*, Enumeration>;

struct Flag {
  std::vector<std::string> names;
  std::string placeholder;  // of the value, in the help
  std::string group, help;
  Field field;
  Within range{};
  bool required = false, may_change = false;
  std::vector<std::string> suggestions{};

  const std::string& name() const;  // the first long name, which messages use
  std::string key() const;          // in to_json(): "--batch-size" is "batch_size"
  bool positional() const { return names.front().front() != '-'; }
  bool is_switch() const;  // takes no value
  bool takes_all() const;  // takes every positional argument that is left
};

// The visitor collects the flags of options structs, which must outlive it.
class Flags {
 public:
  template <class... Options>
  requires(!std::is_same_v<std::remove_const_t<Options>, Flags> &&
           ...) explicit Flags(Options&... options) {
    (visit(options), ...);
  }

  // The flags that follow stand under this title in the help.
  void group(std::string_view title) { group_ = title; }

  // `names` is "-b, --batch-size N": short and long names, then the placeholder. "FILES" is
  // positional.
  template <class T, class... Rules>
  void operator()(std::string_view names, T& field, std::string_view help, const Rules&... rules) {
    Flag& flag = add(names, help, &field);
    (apply(flag, rules), ...);
  }

  template <class T, class Enum, size_t n, class... Rules>
  requires std::is_same_v<T, Enum> || std::is_same_v<T, std::optional<Enum>>
  void operator()(std::string_view names, T& field, std::string_view help,
                  const Choice<Enum> (&choices)[n], const Rules&... rules) {
    Flag& flag = add(names, help, enumeration(field, std::span<const Choice<Enum>>(choices)));
    (apply(flag, rules), ...);
  }

  const std::vector<Flag>& list() const { return list_; }

 private:
  void visit(auto& options) {
    group_.clear();
    options.visit(*this);
  }

  template <class T, class Enum>
  static Enumeration enumeration(T& field, std::span<const Choice<Enum>> choices) {
    Enumeration result;
    for (const Choice<Enum>& choice : choices) result.names.emplace_back(choice.name);
    result.set = [&field, choices](size_t i) { field = choices[i].value; };
    result.get = [&field, choices]() -> std::optional<size_t> {
      for (size_t i = 0; i < choices.size(); ++i)
        if (field == choices[i].value) return i;
      return std::nullopt;
    };
    return result;
  }

  static void apply(Flag& flag, const Within& range) { flag.range = range; }
  static void apply(Flag& flag, const Required&) { flag.required = true; }
  static void apply(Flag& flag, const MayChange&) { flag.may_change = true; }
  static void apply(Flag& flag, const Suggest& suggest) { flag.suggestions = suggest.values; }
  Flag& add(std::string_view names, std::string_view help, Field field);

  std::vector<Flag> list_;
  std::string group_;
};

// What a shell must know of a flag to complete it.
struct FlagFacts {
  enum class Value { none, choice, path, other };
  std::vector<std::string> names;
  std::string placeholder, help;
  Value value = Value::other;
  std::vector<std::string> choices;
  bool positional = false, repeated = false;
};
std::vector<FlagFacts> facts_of(const Flags& flags);

// What follows `engine` on a command line.
struct Command {
  std::string verb, about;                  // "train"; its line in `engine --help`
  std::vector<std::string> arguments;       // after the verb
  std::vector<FlagFacts>* facts = nullptr;  // if set, filled instead of doing the verb's work
};

// Flags of every verb.
struct GeneralOptions {
  std::filesystem::path config;
  ColourMode colour = ColourMode::automatic;
  bool help = false;

  void visit(auto& v) {
    v.group("General");
    v("--config FILE", config,
      "flags, as JSON like a run's args.json, or as .yaml; the command line wins");
    v("--color, --colour WHEN", colour, "auto: on a terminal, unless NO_COLOR or TERM=dumb says no",
      kColourModes);
    v("-h, --help", help, "this text");
  }
};

// A JSON object as to_json() makes it; messages say where it is from.
struct Config {
  std::string json, from;
};

// Sets the fields. Flags may be given in any order, as `--flag value` or `--flag=value`; the last
// of several counts, and `--` ends them. The members of `config` are set first. Throws
// Error(usage), one line that names the flag, the value and what is allowed, or all members of
// `config` that are no flags.
void parse_flags(const Flags& flags, std::span<const std::string> arguments,
                 const std::optional<Config>& config = std::nullopt);

// The file that --config names among the arguments, JSON or, by its ending, YAML.
std::optional<Config> read_config(std::span<const std::string> arguments);

// Usage line and flags by group, with defaults and ranges.
std::string help_text(const Flags& flags, const Command& command);

// One object with a member per flag: Flag::key() and the value.
std::string to_json(const Flags& flags);

// The candidate a mistyped word most likely stands for, if any is near.
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

bool asks_for_help(const Command& command);
void print_to_stdout(std::string_view text);

// A verb's options; nothing if the command asked for help, which is then printed, or for the flags'
// facts.
template <class Options>
std::optional<Options> parse_options(const Command& command) {
  Options options;
  GeneralOptions general;
  const Flags flags(options, general);
  if (command.facts) {
    *command.facts = facts_of(flags);
    return std::nullopt;
  }
  if (asks_for_help(command)) {
    print_to_stdout(help_text(flags, command));
    return std::nullopt;
  }
  parse_flags(flags, command.arguments, read_config(command.arguments));
  set_colour(general.colour);
  return options;
}

}  // namespace engine

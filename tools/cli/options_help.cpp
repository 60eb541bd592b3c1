// The text of --help, and what else tells of flags.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <type_traits>
#include <variant>

#include "tools/cli/flag_text.h"
#include "tools/cli/options.h"
#include "tools/cli/terminal.h"

namespace engine {
namespace {

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
  return fmt::format("{}", value);
}
template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : "";
}

// The value as the help shows it; empty where there is nothing to show.
std::string current_text(const Field& field) {
  return std::visit(
      []<class T>(const T& value) -> std::string {
        if constexpr (std::is_same_v<T, Enumeration>) {
          const std::optional<size_t> i = value.get();
          return i ? value.names[*i] : "";
        } else {
          return text_of(*value);
        }
      },
      field);
}

constexpr size_t kHelpColumn = 32;

// Columns of a line of help: the terminal's, as far as they are easily read.
size_t help_width() {
  return static_cast<size_t>(std::clamp(terminal_width(stdout), 60, 100));
}

// Columns that a terminal needs for UTF-8 without wide characters.
size_t columns(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Breaks `text` into lines of `width` columns that start at the help column; the first one
// continues a line of `used` columns.
std::string wrapped(std::string_view text, size_t used, size_t width) {
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
    if (column > kHelpColumn && column + 1 + columns(word) > width) new_line();
    if (column > kHelpColumn) out += ' ', ++column;
    out += word;
    column += columns(word);
  }
  return out + '\n';
}

std::string help_line(const Flag& flag, size_t width) {
  std::string left = "  ";
  if (!flag.positional() && flag.names.front().starts_with("--")) left += "    ";  // under "-b, "
  left += fmt::format("{}", fmt::join(flag.names, ", "));
  if (!flag.positional() && !flag.placeholder.empty()) left += ' ' + flag.placeholder;
  return left + wrapped(flag.help + notes_of(flag), columns(left), width);
}

}  // namespace

// Choices that the placeholder names are not named again.
std::string notes_of(const Flag& flag) {
  std::vector<std::string> parts;
  const std::string text = current_text(flag.field);
  if (const auto* choices = std::get_if<Enumeration>(&flag.field)) {
    if (flag.placeholder != fmt::format("{}", fmt::join(choices->names, "|")))
      parts.push_back(fmt::format("{}", fmt::join(choices->names, ", ")));
  }
  if (flag.required)
    parts.push_back("required");
  else if (!text.empty())
    parts.push_back("default " + text);
  if (const std::string range = to_string(flag.range); !range.empty()) parts.push_back(range);
  if (!flag.suggestions.empty())
    parts.push_back(fmt::format("known: {}", fmt::join(flag.suggestions, ", ")));
  return parts.empty() ? "" : fmt::format(" ({})", fmt::join(parts, "; "));
}

std::string help_text(const Flags& flags, const Command& command) {
  std::string usage = fmt::format("engine {}", command.verb), body;
  for (const Flag& flag : flags.list())
    if (flag.required && !flag.positional())
      usage += fmt::format(" {} {}", flag.name(), flag.placeholder);
  usage += " [--flag value]...";
  for (const Flag& flag : flags.list())
    if (flag.positional()) {
      const std::string name = flag.name() + (flag.takes_all() ? "..." : "");
      usage += flag.required ? ' ' + name : " [" + name + ']';
    }
  const size_t width = help_width();
  const std::string* group = nullptr;
  for (const Flag& flag : flags.list()) {
    if (!group || *group != flag.group)
      body += fmt::format("\n{}\n", flag.group.empty() ? "Flags" : flag.group);
    group = &flag.group;
    body += help_line(flag, width);
  }
  return fmt::format("engine {}: {}\n\nusage: {}\n{}", command.verb, command.about, usage, body);
}

std::vector<FlagFacts> facts_of(const Flags& flags) {
  std::vector<FlagFacts> all;
  for (const Flag& flag : flags.list()) {
    using Value = FlagFacts::Value;
    FlagFacts facts{.names = flag.names,
                    .placeholder = flag.placeholder,
                    .help = flag.help + notes_of(flag),
                    .positional = flag.positional(),
                    .repeated = flag.takes_all()};
    const auto* choices = std::get_if<Enumeration>(&flag.field);
    const bool path = std::holds_alternative<std::filesystem::path*>(flag.field) ||
                      std::holds_alternative<std::optional<std::filesystem::path>*>(flag.field) ||
                      flag.takes_all();
    if (choices) facts.choices = choices->names;
    if (!flag.suggestions.empty()) facts.choices = flag.suggestions;
    facts.value = !facts.choices.empty() ? Value::choice
                  : flag.is_switch()     ? Value::none
                  : path                 ? Value::path
                                         : Value::other;
    all.push_back(std::move(facts));
  }
  return all;
}

bool asks_for_help(const Command& command) {
  for (const std::string& argument : command.arguments) {
    if (argument == "--") return false;
    if (argument == "--help" || argument == "-h") return true;
  }
  return false;
}

}  // namespace engine

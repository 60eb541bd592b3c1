#include "tools/cli/man_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace engine {
namespace {

// Characters that are commands to roff or not in ASCII, and their names there.
constexpr std::pair<std::string_view, std::string_view> kEscapes[] = {
    {"\\", "\\e"},  {"-", "\\-"}, {"±", "\\(+-"}, {"√", "\\(sr"}, {"×", "\\(mu"},
    {"·", "\\(pc"}, {"…", "..."}, {"–", "\\(en"}, {"≥", "\\(>="}, {"≤", "\\(<="}};

std::string escaped(std::string_view text) {
  std::string out;
  // A line that begins with a dot or a quotation mark would be a command.
  if (text.starts_with('.') || text.starts_with('\'')) out += "\\&";
  while (!text.empty()) {
    const auto at = std::ranges::find_if(
        kEscapes, [&](const auto& escape) { return text.starts_with(escape.first); });
    const bool known = at != std::end(kEscapes);
    out += known ? at->second : text.substr(0, 1);
    text.remove_prefix(known ? at->first.size() : 1);
  }
  return out;
}

std::string bold(std::string_view text) {
  return fmt::format("\\fB{}\\fR", escaped(text));
}

std::string bold_names(const FlagFacts& flag) {
  std::vector<std::string> names;
  for (const std::string& name : flag.names) names.push_back(bold(name));
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string entry(const FlagFacts& flag) {
  std::string text = ".TP\n" + bold_names(flag);
  if (!flag.positional && !flag.placeholder.empty())
    text += fmt::format(" \\fI{}\\fR", escaped(flag.placeholder));
  return text + fmt::format("\n{}\n", escaped(flag.help));
}

bool same(const FlagFacts& a, const FlagFacts& b) {
  return a.names == b.names && a.help == b.help;
}

bool has(const VerbFacts& verb, const FlagFacts& flag) {
  return std::ranges::any_of(verb.flags, [&](const FlagFacts& f) { return same(f, flag); });
}

std::string section(const VerbFacts& verb, const VerbFacts& first) {
  std::string text =
      fmt::format(".SS {}\n{}\n", escaped("engine " + verb.name), escaped(verb.about + '.'));
  std::vector<std::string> shared;
  for (const FlagFacts& flag : verb.flags)
    if (&verb != &first && has(first, flag))
      shared.push_back(bold(flag.names.back()));
    else
      text += entry(flag);
  if (!shared.empty())
    text += fmt::format(".PP\nAs those of \\fBengine {}\\fR:\n{}.\n", escaped(first.name),
                        fmt::join(shared, ",\n"));
  return text;
}

}  // namespace

std::string man_page(std::string_view version, std::span<const VerbFacts> verbs,
                     std::span<const ExitCode> codes) {
  std::string text = fmt::format(
      ".TH ENGINE 1 \"\" \"engine {}\" \"User Commands\"\n"
      ".SH NAME\nengine \\- trains image classifiers on GPUs and CPUs\n"
      ".SH SYNOPSIS\n.B engine\n.I VERB\n[\\fB\\-\\-flag\\fR \\fIvalue\\fR]...\n"
      ".SH DESCRIPTION\n"
      "Human text goes to the standard error, data to the standard output.\n"
      "\\fBengine help\\fR \\fIVERB\\fR shows the flags of a verb, which may stand in any order, "
      "as\n"
      "\\fB\\-\\-flag\\fR \\fIvalue\\fR or \\fB\\-\\-flag=\\fR\\fIvalue\\fR; the last of several "
      "counts.\n"
      ".SH VERBS\n",
      escaped(version));
  for (const VerbFacts& verb : verbs) text += section(verb, verbs.front());
  text += ".SH EXIT STATUS\n";
  for (const ExitCode& code : codes)
    text += fmt::format(".TP\n.B {}\n{}\n", code.code, escaped(code.meaning));
  return text;
}

}  // namespace engine

#include "tools/cli/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace engine {
namespace {

using Value = FlagFacts::Value;
using Words = std::vector<std::string>;

std::string joined(const Words& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

void add_once(Words& words, std::string_view word) {
  if (std::find(words.begin(), words.end(), word) == words.end()) words.emplace_back(word);
}

// The first words of all verbs, or the second ones behind `first`.
Words next_words(std::span<const VerbFacts> verbs, std::string_view first = "") {
  Words words;
  for (const VerbFacts& verb : verbs) {
    const size_t space = verb.name.find(' ');
    const std::string_view name = verb.name, head = name.substr(0, space);
    if (first.empty())
      add_once(words, head);
    else if (head == first && space != std::string::npos)
      add_once(words, name.substr(space + 1));
  }
  return words;
}

Words groups(std::span<const VerbFacts> verbs) {
  Words words;
  for (const VerbFacts& verb : verbs)
    if (const size_t space = verb.name.find(' '); space != std::string::npos)
      add_once(words, std::string_view(verb.name).substr(0, space));
  return words;
}

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

// ---- bash

constexpr char kBashHead[] = R"(# bash completion of engine; source it, or put it into
# ~/.local/share/bash-completion/completions/engine
_engine() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}
  local flags= values= files=
  COMPREPLY=()
  if [[ $cur == = ]]; then cur=; fi
  if [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
)";

constexpr char kBashTail[] =
    R"(  if [[ $values ]]; then COMPREPLY=($(compgen -W "$values" -- "$cur"))
  elif [[ $files && $cur != -* ]]; then
    compopt -o filenames 2>/dev/null
    local IFS=$'\n'
    COMPREPLY=($(compgen -f -- "$cur"))
  elif [[ $flags ]]; then COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  fi
}
complete -F _engine engine
)";

std::string bash(std::span<const VerbFacts> verbs) {
  std::string text = kBashHead;
  text += fmt::format(
      "  if (( COMP_CWORD == 1 )); then\n"
      "    COMPREPLY=($(compgen -W \"{} --help --version\" -- \"$cur\"))\n    return\n  fi\n"
      "  case $verb in\n",
      joined(next_words(verbs)));
  for (const std::string& group : groups(verbs))
    text += fmt::format(
        "    {})\n      if (( COMP_CWORD == 2 )); then\n"
        "        COMPREPLY=($(compgen -W \"{}\" -- \"$cur\"))\n        return\n      fi\n"
        "      verb+=\" ${{COMP_WORDS[2]}}\" ;;\n",
        group, joined(next_words(verbs, group)));
  text += "  esac\n  case \"$verb\" in\n";
  for (const VerbFacts& verb : verbs) {
    Words names;
    std::string cases;
    bool files = false;
    for (const FlagFacts& flag : verb.flags) {
      files |= flag.positional && flag.value == Value::path;
      if (flag.positional) continue;
      names.insert(names.end(), flag.names.begin(), flag.names.end());
      if (flag.value == Value::none) continue;
      const std::string then = flag.value == Value::choice
                                   ? fmt::format("values=\"{}\"", joined(flag.choices))
                               : flag.value == Value::path ? "files=1"
                                                           : "return";
      cases += fmt::format("        {}) {} ;;\n", fmt::join(flag.names, "|"), then);
    }
    text += fmt::format("    \"{}\")\n      flags=\"{}\"{}\n      case $prev in\n{}      esac ;;\n",
                        verb.name, joined(names), files ? " files=1" : "", cases);
  }
  return text + "  esac\n" + kBashTail;
}

// ---- zsh

std::string zsh_quoted(std::string text) {  // inside '…[…]…'
  for (const std::string_view special : {"\\", "[", "]", ":"})
    text = replaced(std::move(text), special, fmt::format("\\{}", special));
  return replaced(std::move(text), "'", "'\\''");
}

std::string zsh_action(const FlagFacts& flag) {
  if (flag.value == Value::choice) return fmt::format("({})", joined(flag.choices));
  return flag.value == Value::path ? "_files" : " ";
}

std::string zsh_spec(const FlagFacts& flag) {
  if (flag.positional)
    return fmt::format("'{}:{}:{}'", flag.repeated ? "*" : "", zsh_quoted(flag.help),
                       zsh_action(flag));
  std::string value;
  if (flag.value != Value::none)
    value = fmt::format(":{}:{}", zsh_quoted(flag.placeholder), zsh_action(flag));
  std::string text;
  for (const std::string& name : flag.names) {
    // The value of a long name stands behind "=" or is the next word.
    const char* equals = flag.value != Value::none && name.starts_with("--") ? "=" : "";
    text += fmt::format("{}'({}){}{}[{}]{}'", text.empty() ? "" : " \\\n          ",
                        joined(flag.names), name, equals, zsh_quoted(flag.help), value);
  }
  return text;
}

std::string zsh(std::span<const VerbFacts> verbs) {
  const auto described = [&](std::string_view first) {
    std::string text;
    for (const std::string& word : next_words(verbs, first)) {
      const std::string name = first.empty() ? word : fmt::format("{} {}", first, word);
      const auto verb = std::find_if(verbs.begin(), verbs.end(),
                                     [&](const VerbFacts& v) { return v.name == name; });
      text += verb == verbs.end() ? fmt::format(" '{}'", word)
                                  : fmt::format(" '{}:{}'", word, zsh_quoted(verb->about));
    }
    return text;
  };
  std::string text =
      "#compdef engine\n# zsh completion of engine: as _engine in a folder of $fpath\n";
  text += "_engine() {\n  local verb=$words[2]\n  local -a names\n";
  text += fmt::format(
      "  if (( CURRENT == 2 )); then\n    names=({})\n    _describe verb names\n    return\n  fi\n",
      described(""));
  text += "  case $verb in\n";
  for (const std::string& group : groups(verbs))
    text += fmt::format(
        "    {})\n      if (( CURRENT == 3 )); then\n        names=({})\n"
        "        _describe verb names\n        return\n      fi\n"
        "      verb+=\" $words[3]\"\n      shift words\n      (( CURRENT-- )) ;;\n",
        group, described(group));
  text += "  esac\n  shift words\n  (( CURRENT-- ))\n  case $verb in\n";
  for (const VerbFacts& verb : verbs) {
    text += fmt::format("    '{}')\n      _arguments", verb.name);
    for (const FlagFacts& flag : verb.flags) text += " \\\n          " + zsh_spec(flag);
    text += " ;;\n";
  }
  return text +
         "  esac\n}\nif [[ $funcstack[1] == _engine ]]; then _engine \"$@\"; "
         "else compdef _engine engine; fi\n";
}

// ---- fish

std::string fish_quoted(std::string text) {
  text = replaced(std::move(text), "\\", "\\\\");
  return fmt::format("'{}'", replaced(std::move(text), "'", "\\'"));
}

constexpr char kFishHead[] = R"(# fish completion of engine: ~/.config/fish/completions/engine.fish
function __engine_words
    commandline -opc | string match -v -- '-*'
end
function __engine_at -d 'the words so far are these'
    set -l words (__engine_words)
    test (count $words) -eq (math (count $argv) + 1); or return 1
    test (count $argv) -eq 0; or test "$words[2..]" = "$argv"
end
function __engine_verb -d 'the verb is this one'
    set -l words (__engine_words)
    set -l last (math (count $argv) + 1)
    test (count $words) -ge $last; and test "$words[2..$last]" = "$argv"
end
complete -c engine -f
)";

std::string fish(std::span<const VerbFacts> verbs) {
  std::string text = kFishHead;
  for (const VerbFacts& verb : verbs) {
    const size_t space = verb.name.find(' ');
    if (space == std::string::npos)
      text += fmt::format("complete -c engine -n __engine_at -a {} -d {}\n", verb.name,
                          fish_quoted(verb.about));
    else
      text += fmt::format("complete -c engine -n '__engine_at {}' -a {} -d {}\n",
                          verb.name.substr(0, space), verb.name.substr(space + 1),
                          fish_quoted(verb.about));
  }
  for (const std::string& group : groups(verbs))
    text += fmt::format("complete -c engine -n __engine_at -a {}\n", group);
  for (const VerbFacts& verb : verbs)
    for (const FlagFacts& flag : verb.flags) {
      std::string line = fmt::format("complete -c engine -n '__engine_verb {}'", verb.name);
      if (flag.positional) {
        if (flag.value == Value::path) text += line + " -F\n";
        continue;
      }
      for (const std::string& name : flag.names)
        line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (flag.value == Value::choice)
        line += fmt::format(" -x -a {}", fish_quoted(joined(flag.choices)));
      if (flag.value == Value::path) line += " -r -F";
      if (flag.value == Value::other) line += " -x";
      text += line + fmt::format(" -d {}\n", fish_quoted(flag.help));
    }
  return text;
}

}  // namespace

std::string completion_script(Shell shell, std::span<const VerbFacts> verbs) {
  switch (shell) {
    case Shell::bash: return bash(verbs);
    case Shell::zsh: return zsh(verbs);
    case Shell::fish: return fish(verbs);
  }
  return "";
}

}  // namespace engine

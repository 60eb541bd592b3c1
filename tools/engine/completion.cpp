// engine completion: a script that completes this command line in a shell.
#include "tools/cli/completion.h"

#include "tools/engine/verbs.h"

namespace engine {
namespace {

constexpr Choice<Shell> kShells[] = {
    {"bash", Shell::bash}, {"zsh", Shell::zsh}, {"fish", Shell::fish}};

struct CompletionOptions {
  Shell shell = Shell::bash;
  void visit(auto& v) { v("SHELL", shell, "bash, zsh or fish", kShells, kRequired); }
};

}  // namespace

int completion(const Command& command) {
  const auto options = parse_options<CompletionOptions>(command);
  if (!options) return 0;
  return print_to_stdout(completion_script(options->shell, all_verbs())), 0;
}

}  // namespace engine

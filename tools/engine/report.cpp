// engine report: the page of a run, by the Python script that comes with the program.
#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

#include "engine/error.h"
#include "tools/cli/shell.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

struct ReportOptions {
  fs::path run, out, root;
  std::string python;
  void visit(auto& v) {
    v("RUN", run, "folder of a training, or --out of engine eval or engine folds", kRequired);
    v("--out FILE", out, "the page (default: RUN/report.html)");
    v("--root DIR", root, "where else images are looked for, if they have moved");
    v("--python PROGRAM", python,
      "that has matplotlib and Pillow (default: $ENGINE_PYTHON, else the first of python3 and "
      "/usr/bin/python3 that has)");
  }
};

struct Ended {
  int code = 0;
  std::string said;  // on standard output, and on standard error if it was asked for
};

// Runs a command of a shell to its end.
Ended run_command(const std::string& command) {
  std::fflush(nullptr);
  std::FILE* pipe = popen(command.c_str(), "r");
  require(pipe != nullptr, Failure::internal, "cannot start {}", command);
  Ended ended;
  std::array<char, 4096> part;
  while (const size_t bytes = std::fread(part.data(), 1, part.size(), pipe))
    ended.said.append(part.data(), bytes);
  const int status = pclose(pipe);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  while (ended.said.ends_with('\n')) ended.said.pop_back();
  return ended;
}

// The modules that a Python lacks, one a word; nothing where it lacks none.
struct Python {
  std::string program;
  bool is_there = false;
  std::string missing;
};

Python look_at(const std::string& program) {
  constexpr char kAsk[] =
      "import importlib.util as u; "
      "print(*[m for m in ('matplotlib', 'numpy', 'PIL') if u.find_spec(m) is None])";
  const Ended ended =
      run_command(fmt::format("{} -c {} 2>/dev/null", shell_word(program), shell_word(kAsk)));
  return {program, ended.code == 0, ended.said};
}

// "the report needs matplotlib and PIL, which python3 lacks: …", with the commands of Debian and of
// pip.
std::string what_to_install(const Python& python) {
  std::string debian, pip;
  for (const auto& [module, package, project] :
       {std::array{"matplotlib", "python3-matplotlib", "matplotlib"},
        std::array{"numpy", "python3-numpy", "numpy"}, std::array{"PIL", "python3-pil", "pillow"}})
    if (python.missing.find(module) != std::string::npos) {
      debian += fmt::format(" {}", package);
      pip += fmt::format(" {}", project);
    }
  return fmt::format(
      "the report needs Python modules that {} lacks: {}; apt-get install{}, or "
      "{} -m pip install{}",
      python.program, python.missing, debian, shell_word(python.program), pip);
}

std::string find_python(const std::string& wanted) {
  const char* chosen = std::getenv("ENGINE_PYTHON");
  std::vector<std::string> programs = {"python3", "/usr/bin/python3"};
  if (!wanted.empty())
    programs = {wanted};
  else if (chosen && *chosen)
    programs = {chosen};
  std::vector<Python> there;
  for (const std::string& program : programs) {
    Python python = look_at(program);
    if (python.is_there && python.missing.empty()) return program;
    if (python.is_there) there.push_back(std::move(python));
  }
  if (there.empty())
    fail(Failure::check, "the report needs Python, and there is no {}; apt-get install {}",
         programs.front(), "python3 python3-matplotlib python3-pil");
  fail(Failure::check, "{}", what_to_install(there.front()));
}

}  // namespace

int report(const Command& command) {
  const auto options = parse_options<ReportOptions>(command);
  if (!options) return 0;
  const ReportOptions& o = *options;
  std::error_code error;
  require(fs::is_directory(o.run, error), Failure::usage, "RUN {}: there is no such folder",
          o.run.string());
  require(fs::exists(o.run / "metrics.json", error) || fs::exists(o.run / "results.csv", error),
          Failure::data,
          "{}: neither metrics.json nor results.csv is there: not the folder of a "
          "run or of an evaluation",
          o.run.string());
  const fs::path folder = o.out.empty() ? o.run : fs::absolute(o.out).parent_path();
  require(fs::is_directory(folder, error), Failure::usage, "--out {}: there is no folder {}",
          o.out.string(), folder.string());
  const fs::path script = shared_file("plots/report.py");
  require(fs::exists(script, error), Failure::internal,
          "{} is not there, which comes with the "
          "program",
          script.string());
  std::string line =
      fmt::format("PYTHONDONTWRITEBYTECODE=1 {} {} {}", shell_word(find_python(o.python)),
                  shell_word(script.string()), shell_word(fs::absolute(o.run).string()));
  if (!o.out.empty()) line += " --out " + shell_word(fs::absolute(o.out).string());
  if (!o.root.empty()) line += " --root " + shell_word(fs::absolute(o.root).string());
  const Ended ended = run_command(line);
  require(ended.code == 0, Failure::data, "{}: no report was made (exit code {} of {})",
          o.run.string(), ended.code, script.string());
  print_to_stdout(ended.said + '\n');
  return 0;
}

}  // namespace engine

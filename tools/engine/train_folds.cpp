#include "tools/engine/train_folds.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "tools/cli/shell.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/launcher.h"
#include "tools/train/run_flags.h"
#include "tools/train/run_lock.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// The folder of all the runs, locked. What is in it already goes on only with --resume.
RunLock lock_folder(const TrainOptions& o) {
  const bool goes_on = !o.resume.empty();
  require(o.resume != "auto" || !o.out.empty(), Failure::usage,
          "--resume auto needs --out: the folder of the folds to continue");
  return RunLock::take(goes_on && o.resume != "auto" ? run_of(o.resume) : o.out, o.model, goes_on);
}

// Error(usage) where the folder is of a run that is none of so many folds.
void check_goes_on(const fs::path& out, int folds) {
  const std::optional<Config> before = latest_flags(out);
  if (!before) return;
  const auto json = parse_json<nlohmann::json>(before->json, Failure::usage, before->from);
  const auto had = json.find("folds");
  const bool whole = had != json.end() && had->is_number_integer() &&
                     json.value("fold", nlohmann::json()).is_null();
  require(whole && had->get<int>() == folds, Failure::usage, "--folds {}: the run to resume has {}",
          folds, whole ? std::to_string(had->get<int>()) : "none");
}

// Writes down the flags of all folds. Returns the file.
fs::path write_flags(const TrainOptions& o, const fs::path& out) {
  TrainOptions kept = o;
  kept.out = out;
  const Flags flags(kept);
  make_paths_absolute(flags);
  fs::path file = out / first_free(out, "args", ".json");
  write_file_atomically(file, to_json(flags) + '\n');
  return file;
}

int run_fold(const Command& command, const fs::path& flags, int fold, const fs::path& folder) {
  return train({command.verb,
                command.about,
                {"--config", flags.string(), "--fold", std::to_string(fold), "--out",
                 folder.string(), "--resume", "auto"}});
}

}  // namespace

int train_folds(const Command& command, const TrainOptions& o) {
  const int count = *o.folds;
  const Place place = read_place(environment_variables());
  require(place.processes == 1, Failure::usage,
          "--folds {} without --fold: under a launcher of {} processes each fold is a job of its "
          "own; give --fold 1 to {}",
          count, place.processes, count);
  require(!o.lr_find, Failure::usage, "--lr-find looks with one fold: give --fold");
  if (o.plan_only) {
    say(fmt::format("fold 1 of {}; the others are alike", count));
    std::vector<std::string> words = command.arguments;
    words.insert(words.end(), {"--fold", "1"});
    return train({command.verb, command.about, std::move(words)});
  }
  RunLock lock = lock_folder(o);
  const fs::path out = fs::absolute(lock.path()).lexically_normal();
  check_goes_on(out, count);
  const fs::path flags = write_flags(o, out);
  bool begun = false;
  const auto interrupted = [&] {
    std::error_code error;
    if (!fs::exists(out / "fold_1", error)) return;
    lock.keep();
    say(fmt::format("the folds go on with: engine train --resume {}", shell_word(out.string())));
  };
  for (int fold = 1; fold <= count; ++fold) {
    say(paint(fmt::format("fold {} of {}", fold, count), Colour::bold, stderr));
    const fs::path folder = out / fmt::format("fold_{}", fold);
    const std::string next = first_free(folder, "args", ".json");
    try {
      const int code = run_fold(command, flags, fold, folder);
      if (code != 0) return interrupted(), code;
    } catch (const std::exception& error) {
      begun = begun || first_free(folder, "args", ".json") != next;
      std::error_code ignored;
      if (!begun) fs::remove(flags, ignored);  // not the flags to go on with
      const auto* ours = dynamic_cast<const Error*>(&error);
      if (!ours || ours->kind != Failure::preempted || !fs::exists(folder, ignored)) {
        interrupted();
        throw;
      }
      lock.keep();
      fail(Failure::preempted, "stopped in fold {} of {}; to go on: engine train --resume {}", fold,
           count, shell_word(out.string()));
    }
    begun = true;
    lock.keep();
  }
  std::vector<std::string> words = {out.string(), "--out", out.string()};
  if (!o.by.empty()) words.insert(words.end(), {"--by", o.by});
  const int code = folds({"folds", "", std::move(words)});
  say("run directory " + out.string());
  return code;
}

}  // namespace engine

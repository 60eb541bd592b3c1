// What a run tells of itself: the progress line, lines on the screen and in log.txt, and the logs
// of the run directory. Rank 0 reports; the reporter of every other rank does nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/loader.h"
#include "tools/cli/progress.h"
#include "tools/score/decisions.h"
#include "tools/score/metadata.h"
#include "tools/score/score.h"
#include "tools/train/divergence.h"
#include "tools/train/example_images.h"
#include "tools/train/lr_find.h"
#include "tools/train/train_shared.h"

namespace engine {

class Reporter {
 public:
  Reporter(TrainShared& shared, int rank) : shared_(rank == 0 ? &shared : nullptr) {}

  void say(const std::string& line);

  // The progress line of a loop.
  void begin(const std::string& title, int64_t steps, int64_t first_step = 0,
             int64_t later_steps = 0);
  void step(int64_t images, double waited_seconds);
  void loss(double value);
  void finish();

  // The same for an epoch of training, whose use of the machine is measured, too; `later_steps` are
  // those of the epochs after it.
  void begin_epoch(int epoch, int64_t steps, int64_t first_step, int64_t later_steps);
  void end_epoch();
  // Logs an event "step", if it is one of those that --log-every keeps. `epoch` counts from 1.
  void update(int epoch, int64_t step, double loss, double rate, double scale);
  // Logs and says the epoch that ended; its rate and its use of the machine are filled in here.
  // Names damage of the cache that was not named before.
  void log_epoch(EpochResult result);
  // Names the images of a part that could not be read, if there are any that were not named before,
  // and logs an event "bad_images" with their number.
  void bad_images(std::string_view part, const std::vector<BadImage>& bad, const Dataset& data);

  // Logs an event "diverged", with all images.
  void log_divergence(const Divergence& divergence);
  // Notes that the run goes on from here; what was logged beyond goes.
  void log_resume(const TrainPosition& at);
  void write_algorithms(const std::map<std::string, std::string>& algorithms);
  // Chooses temperature and thresholds, whatever the task, by shared.evaluation, which holds the
  // logits of the validation images, and stores them with the best weights.
  void decide();
  // Scores shared.evaluation, which holds the logits of `data`, with what decide() chose, and
  // writes the files of write_score() or write_label_score().
  void score(std::string_view part, std::string_view prefix, const Dataset& data);
  // For TensorBoard: the images of a part, as the network gets them, at the beginning, and those
  // with the largest losses of shared.evaluation. Where they cannot be shown that is noted.
  void show_examples(const Dataset& data, const Preprocess& preprocess);
  void show_worst(std::string_view part, int64_t step, const Dataset& data,
                  const Preprocess& preprocess);
  void write_lr_find(const LrFind& found);

 private:
  void show(int64_t step, const std::string& tag, const Dataset& data,
            std::span<const Example> examples, const Preprocess& preprocess);

  TrainShared* shared_;  // null: silent
  std::optional<Progress> progress_;
  EpochResult ended_;  // rate, waiting and use of the machine of the epoch that ended last
  std::set<std::string> named_bad_images_;
  std::string named_damage_;
  Decisions decisions_;
};

}  // namespace engine

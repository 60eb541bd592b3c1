#include "tools/train/reporter.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "tools/cli/terminal.h"
#include "tools/score/label_score.h"
#include "tools/score/score.h"

namespace engine {

void Reporter::say(const std::string& line) {
  if (!shared_) return;
  if (progress_) progress_->clear();
  engine::say(line);
  shared_->run.note(line);
}

// ---------------------------------------------------------------- loops

void Reporter::begin(const std::string& title, int64_t steps, int64_t first_step,
                     int64_t later_steps) {
  if (shared_) progress_.emplace(title, steps, first_step, progress_to_stderr(), later_steps);
}

void Reporter::step(int64_t images, double waited_seconds) {
  if (progress_) progress_->step(images, waited_seconds);
}

void Reporter::loss(double value) {
  if (progress_) progress_->loss(value);
}

void Reporter::finish() {
  if (progress_) progress_->finish();
  progress_.reset();
}

// ---------------------------------------------------------------- epochs

void Reporter::begin_epoch(int epoch, int64_t steps, int64_t first_step, int64_t later_steps) {
  if (!shared_) return;
  begin(fmt::format("epoch {}/{}", epoch, shared_->config.epochs), steps, first_step, later_steps);
  shared_->monitor.take();  // what was used so far is not this epoch's
}

void Reporter::end_epoch() {
  if (!shared_) return;
  ended_ = {};
  if (progress_) {
    progress_->finish();
    ended_.images_per_second = progress_->images_per_second();
    ended_.wait_share = progress_->wait_share();
    progress_.reset();
  }
  ended_.use = shared_->monitor.take();
}

void Reporter::update(int epoch, int64_t step, double loss, double rate, double scale) {
  if (shared_ && step % shared_->config.log_every == 0)
    shared_->run.log_step(epoch, step, {{"loss", loss}, {"lr", rate}, {"scale", scale}});
}

void Reporter::bad_images(std::string_view part, const std::vector<BadImage>& bad,
                          const Dataset& data) {
  if (!shared_) return;
  bool news = false;
  for (const BadImage& image : bad) {
    if (!named_bad_images_.insert(image.path).second) continue;
    say("skipped " + image.reason);
    news = true;
  }
  if (!news) return;
  say(fmt::format("{}: of {} images {} cannot be read and are left out", part, data.samples.size(),
                  bad.size()));
  shared_->run.log("bad_images",
                   {{"part", part}, {"images", data.samples.size()}, {"unreadable", bad.size()}});
}

void Reporter::log_epoch(EpochResult r) {
  if (!shared_) return;
  r.images_per_second = ended_.images_per_second;
  r.wait_share = ended_.wait_share;
  r.use = ended_.use;
  const bool of_labels = shared_->data.train.task == Task::labels;
  say(fmt::format(
      "epoch {}/{}: train loss {:.4f}, val loss {:.4f}, {}, AUC {}{}, {:.0f} img/s, "
      "{:.1f}% waiting for data; {}",
      r.epoch, shared_->config.epochs, r.train_loss, r.val_loss,
      of_labels ? fmt::format("all labels right {:.4f}", r.top1)
                : fmt::format("top-1 {:.4f}, top-5 {:.4f}", r.top1, r.top5),
      r.auc_macro ? fmt::format("{:.4f}", *r.auc_macro) : "-",
      r.watch.figure == Watch::Figure::auc ? "" : watched_text(r.watch, r.watched.value_or(NAN)),
      r.images_per_second, 100 * r.wait_share, describe(r.use)));
  if (const std::string damage = damage_of(shared_->data.train); damage != named_damage_)
    say(named_damage_ = damage);
  shared_->run.log_epoch(r);
}

// ---------------------------------------------------------------- the run

void Reporter::log_divergence(const Divergence& d) {
  if (!shared_) return;
  if (progress_) progress_->clear();
  shared_->run.note(to_string(d));
  shared_->run.log("diverged", {{"epoch", d.epoch + 1},
                                {"step", d.update},
                                {"what", d.what},
                                {"first", d.first},
                                {"rank", d.rank},
                                {"images", d.images}});
}

void Reporter::log_resume(const TrainPosition& at) {
  if (!shared_) return;
  shared_->run.continue_after(at.epoch, at.step);
  shared_->run.log("resume", {{"epoch", at.epoch}, {"step", at.step}});
}

void Reporter::write_algorithms(const std::map<std::string, std::string>& algorithms) {
  if (shared_) shared_->run.write_algorithms(algorithms);
}

void Reporter::decide() {
  if (!shared_) return;
  const Dataset& data = shared_->data.validation;
  decisions_ = engine::decide(
      shared_->evaluation, data,
      {parse_threshold_rule(shared_->config.threshold_rule), shared_->config.reject_accuracy});
  store_decisions(shared_->run.weights("best"), decisions_);
}

void Reporter::score(std::string_view part, std::string_view prefix, const Dataset& data) {
  if (!shared_) return;
  const ScoreOptions options{
      .part = std::string(part),
      .prefix = std::string(prefix),
      .seed = shared_->config.seed,
      .decisions = decisions_,
      .decided_here = &data == &shared_->data.validation,
      .by = &data == &shared_->data.validation ? shared_->by_validation : shared_->by_test};
  const std::filesystem::path& folder = shared_->run.path();
  const EvaluationResult& evaluation = shared_->evaluation;
  const std::string said =
      data.task == Task::labels
          ? table(write_label_score(folder, evaluation, data, options), data.classes)
          : table(write_score(folder, evaluation, data, options), data.classes);
  say(fmt::format("best weights, {}:\n{}", part, said));
}

constexpr size_t kExamples = 16;

void Reporter::show(int64_t step, const std::string& tag, const Dataset& data,
                    std::span<const Example> examples, const Preprocess& preprocess) {
  std::optional<Image> sheet;
  try {
    sheet = example_sheet(data, examples, preprocess);
  } catch (const Error& error) {
    if (error.kind != Failure::data) throw;
    shared_->run.note(fmt::format("no pictures for TensorBoard: {}", error.what()));
  }
  if (sheet) shared_->run.log_picture(step, tag, *sheet);
}

void Reporter::show_examples(const Dataset& data, const Preprocess& preprocess) {
  if (shared_) show(0, "examples/train", data, spread_examples(data, kExamples), preprocess);
}

void Reporter::show_worst(std::string_view part, int64_t step, const Dataset& data,
                          const Preprocess& preprocess) {
  if (shared_)
    show(step, fmt::format("largest_losses/{}", part), data,
         worst_examples(shared_->evaluation, data, kExamples), preprocess);
}

void Reporter::write_lr_find(const LrFind& found) {
  if (!shared_) return;
  const std::filesystem::path file = shared_->run.path() / "lr_find.csv";
  write_file_atomically(file, found.csv());
  if (const std::optional<double> rate = found.best_rate())
    say(fmt::format("least loss at a rate of {:.1e}; a tenth of that, {:.1e}, is a rate to try; {}",
                    *rate, *rate / 10, file.string()));
  else
    say(
        fmt::format("the loss fell by {:.1f}% only, too little to tell a rate: more "
                    "--lr-find-steps or a larger batch may; {}",
                    100 * found.fall(), file.string()));
}

}  // namespace engine

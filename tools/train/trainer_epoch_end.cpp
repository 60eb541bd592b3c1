// The end of an epoch and of a run: validation, what counts as best, the report, the weight files.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "io/images/preprocess.h"
#include "io/weights/seal.h"
#include "tools/cli/signals.h"
#include "tools/train/trainer.h"

namespace engine {

// An epoch that is cut short by steps or time is validated and reported too, but it is not done:
// the checkpoint stays in its middle, and a run that is resumed goes on from there.
//
// The checkpoint is what commits: log lines come before it (a resumed run drops those of later
// steps), weight files after it (a resumed run writes them again).
void Trainer::finish_epoch() {
  reporter_.end_epoch();
  const bool whole = at_.position == static_cast<int64_t>(shared_.data.train.samples.size());
  const double learning_rate = schedule_.rate(std::max<int64_t>(0, at_.scheduled - 1));
  double loss_sum = 0;
  for (double sum : at_.loss_sums) loss_sum += sum;
  const double train_loss = at_.weight > 0 ? loss_sum / at_.weight : 0;

  name_bad_images("train", runner_.loader(), shared_.data.train);
  if (leads()) require_finite(session().state());  // what is validated
  const Validation validation = validate();
  const Metrics& m = validation.metrics;
  judge(validation, whole);
  reporter_.log_epoch({.epoch = at_.position == 0 ? at_.epoch : at_.epoch + 1,
                       .seconds = seconds(),
                       .train_loss = train_loss,
                       .val_loss = m.loss,
                       .top1 = m.top1,
                       .top5 = m.top5,
                       .auc_macro = m.auc_macro,
                       .lr = learning_rate,
                       .step = at_.step,
                       .use = {},
                       .watch = watch_,
                       .watched = validation.watched});
  save(true);
}

// Decides what follows from the validation, the same on every rank.
void Trainer::judge(const Validation& validation, bool whole) {
  const Metrics& m = validation.metrics;
  const EpochFigures figures{m.top1, m.loss, merit(watch_, validation.watched)};
  const int epoch = at_.epoch + 1;
  at_.validated = at_.step;
  const int size = preprocess_.crop;
  if (is_better(watch_, figures, size, at_.best))
    at_.best = {.epoch = epoch,
                .step = at_.step,
                .size = size,
                .top1 = m.top1,
                .loss = m.loss,
                .merit = figures.merit};
  if (!whole) return;
  at_.epoch = epoch;
  at_.position = 0;
  at_.scheduled = epoch * updates_per_epoch();
  at_.weight = 0;
  std::fill(at_.loss_sums.begin(), at_.loss_sums.end(), 0.);
  count_epoch(config_.early_stop, at_.early_stop, figures, size);
  const bool by_watch = config_.early_stop.watch.has_value();
  if (schedule_.epoch_done(by_watch ? validation.watched.value_or(NAN) : m.loss))
    reporter_.say(fmt::format("no improvement: learning rate {:g}", schedule_.rate(at_.scheduled)));
}

void Trainer::evaluate_all(const char* title, Loader& loader, const Dataset& data,
                           const std::function<void()>& stop) {
  if (communicator_.local() == 0) {
    shared_.evaluation.logits.assign(data.samples.size() * session().graph().classes(), 0.f);
    shared_.evaluation.counted.assign(data.samples.size(), 0);
  }
  activity_.set(Doing::validating);
  communicator_.group->barrier(communicator_.rank);
  reporter_.begin(title, loader.steps());
  evaluate(session(), loader, data, communicator_, shared_.evaluation,
           [&](int images, double waited) {
             reporter_.step(images, waited);
             if (wish() == Wish::leave) stop();
           });
  reporter_.finish();
  name_bad_images(title, loader, data);
}

// Names what any rank could not read. A class that has no other images to train with ends the run.
void Trainer::name_bad_images(std::string_view part, const Loader& loader, const Dataset& data) {
  if (config_.on_bad_image == OnBadImage::error) return;
  const std::vector<BadImage> bad = bad_images_of_all(communicator_, loader, data);
  reporter_.bad_images(part, bad, data);
  if (&data != &shared_.data.train) return;
  std::vector<uint32_t> indices;
  for (const BadImage& image : bad) indices.push_back(image.index);
  require_readable_classes(data, indices);
}

// What is validated is what is saved: rank 0's running statistics, as in PyTorch's
// DistributedDataParallel.
void Trainer::share_statistics() {
  if (communicator_.ranks() == 1) return;
  std::vector<std::byte> values = session().running_statistics();
  communicator_.group->broadcast(communicator_.rank, values);
  if (!leads()) session().set_running_statistics(values);
}

Trainer::Validation Trainer::validate() {
  exchange_averages();
  share_statistics();
  // Saved as trained, not validated: a resumed run goes on with the validation.
  evaluate_all("validation", *validation_loader_, shared_.data.validation, [this] {
    exchange_averages();
    save(false);
    leave("during validation");
  });
  exchange_averages();
  Validation v;
  if (leads()) {
    const Dataset& data = shared_.data.validation;
    v.metrics = metrics_of(shared_.evaluation, data);
    v.watched = watched_figure(watch_, v.metrics, shared_.evaluation, data);
  }
  double figures[] = {v.metrics.loss, v.metrics.top1, v.watched.value_or(NAN)};
  communicator_.group->broadcast(communicator_.rank, std::as_writable_bytes(std::span(figures)));
  v.metrics.loss = figures[0];
  v.metrics.top1 = figures[1];
  if (!std::isnan(figures[2])) v.watched = figures[2];
  return v;
}

void Trainer::exchange_averages() {
  if (config_.ema_decay > 0) session().exchange_ema();
}

// Writes what was validated last, which is `trained` or its averages, as last.safetensors, and as
// best.safetensors if it is the best so far. The result may be called on any thread.
std::function<void()> Trainer::weight_writer(const std::map<std::string, Tensor>& trained) {
  exchange_averages();
  TensorFile file =
      model_file(session().graph(), config_.ema_decay > 0 ? session().state() : trained,
                 shared_.data.train.classes, preprocess_, config_.loss.task);
  exchange_averages();
  std::optional<TensorFile> best;
  if (at_.best.step == at_.step)
    best = model_file(session().graph(), file.tensors, shared_.data.train.classes,
                      with_crop(config_.preprocess, at_.best.size), config_.loss.task);
  return [run = &shared_.run, file = std::move(file), best = std::move(best)] {
    write_sealed(run->weights("last"), file);
    if (best) write_sealed(run->weights("best"), *best);
  };
}

// Scores the best weights on the validation images, with everything that is measured, and once on
// the test images, with the temperature and the thresholds that the validation images give.
void Trainer::score_best() {
  uint8_t written = leads() && std::filesystem::exists(shared_.run.weights("best"));
  communicator_.group->broadcast(communicator_.rank,
                                 std::as_writable_bytes(std::span(&written, 1)));
  if (!written) return;
  load_model_file(session(), read_model_file(shared_.run.weights("best"), config_.model));
  const auto score_part = [&](const char* part, const char* prefix, Loader& loader,
                              const Dataset& data) {
    evaluate_all(part, loader, data, [this] { leave("while scoring the best weights"); });
    if (&data == &shared_.data.validation) reporter_.decide();
    reporter_.score(part, prefix, data);
    reporter_.show_worst(part, at_.best.step, data, preprocess_);
  };
  score_part("val", "", *validation_loader_, shared_.data.validation);
  if (shared_.data.test && !shared_.data.test->samples.empty())
    score_part("test", "test_", *evaluation_loader(*shared_.data.test), *shared_.data.test);
}

}  // namespace engine

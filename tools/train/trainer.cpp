#include "tools/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "engine/error.h"
#include "io/data/sample.h"
#include "io/files/cache_folder.h"
#include "io/weights/faults.h"
#include "tools/cli/clock.h"
#include "tools/cli/signals.h"
#include "tools/machine/device.h"
#include "tools/machine/environment.h"
#include "tools/train/equal_ranks.h"
#include "tools/train/training_plan.h"

namespace engine {

namespace {

Share share_of(const Communicator& c) {
  return {c.rank, c.ranks()};
}

SessionOptions session_options(const TrainShared& shared, const Graph& graph,
                               const Communicator& communicator, const TrainPosition& at) {
  const TrainConfig& c = shared.config;
  const Share share = share_of(communicator);
  SessionOptions o{.precision = c.precision,
                   .conv = c.conv,
                   .memory = c.memory,
                   .deterministic = c.deterministic,
                   .frozen_norms = c.frozen_norms,
                   .workspace = c.workspace,
                   .optimizer = c.optimizer,
                   .rule = parameter_rule(c.rules, graph, at.epoch),
                   .ema_decay = c.ema_decay,
                   .accumulates = c.accumulate > 1,
                   .loss = c.loss,
                   .mixing = c.augment.mixing.used(),
                   .normalisation = normalisation_of(c.preprocess),
                   .loss_scale = c.loss_scale,
                   .seed = c.seed,
                   .sync_norms = c.exchange.sync_norms,
                   .buckets = c.exchange.buckets,
                   .bucket_elements = c.exchange.bucket_elements()};
  const auto samples = static_cast<int64_t>(shared.data.train.samples.size());
  o.programs = programs_for(samples, c.batch, share, Mode::train);
  for (const ProgramSpec& rest : programs_for(samples - at.position, c.batch, share, Mode::train))
    if (std::ranges::find(o.programs, rest.batch, &ProgramSpec::batch) == o.programs.end())
      o.programs.push_back(rest);
  if (c.accumulate > 1) o.programs.push_back({o.programs.front().batch, Mode::accumulate});
  for (const Dataset* data :
       {&shared.data.validation, shared.data.test ? &*shared.data.test : nullptr}) {
    if (!data) continue;
    const auto more = programs_for(data->samples.size(), c.batch, share, Mode::evaluate);
    o.programs.insert(o.programs.end(), more.begin(), more.end());
  }
  return o;
}

LoaderOptions loader_options(const TrainConfig& c, const Preprocess& preprocess,
                             const Communicator& communicator, Backend& backend, bool training) {
  return {.width = preprocess.crop,
          .height = preprocess.crop,
          .channels = preprocess.channels,
          .batch = c.batch,
          .share = share_of(communicator),
          .threads = c.workers,
          .ahead = 3,
          .keep = training ? c.accumulate : 1,
          .seed = c.seed,
          .shuffle = training,
          .balanced = training && c.balanced,
          .on_bad_image = c.on_bad_image,
          .memory = batch_memory(backend)};
}

// Where a run goes on. Figures of what was watched before say nothing of what is watched now; of
// the best epoch top-1 and loss are known.
TrainPosition first_position(const TrainShared& shared) {
  const EarlyStopConfig& c = shared.config.early_stop;
  TrainPosition at = shared.checkpoint ? shared.checkpoint->at : TrainPosition{};
  const Watch watch = c.watched();
  if (at.watch != to_string(watch)) {
    at.best.merit = watch.figure == Watch::Figure::top1   ? at.best.top1
                    : watch.figure == Watch::Figure::loss ? -at.best.loss
                                                          : -INFINITY;
    if (!at.watch.empty()) at.early_stop = {};
    at.watch = to_string(watch);
  }
  const std::string plateau = to_string(c.plateau());
  if (at.plateau != plateau && !(at.plateau.empty() && plateau == "loss"))
    at.schedule = {.factor = at.schedule.factor};
  at.plateau = plateau;
  return at;
}

}  // namespace

// ---------------------------------------------------------------- beginning

Trainer::Trainer(TrainShared& shared, BackendKind kind, const BackendOptions& options)
    : shared_(shared),
      config_(shared.config),
      watch_(config_.early_stop.watched()),
      communicator_(options.communicator),
      backend_(make_backend(kind, options)),
      at_(first_position(shared)),
      schedule_(config_.schedule, updates_per_epoch(), config_.epochs, at_.schedule),
      reporter_(shared, communicator_.rank),
      activity_(shared.watchdog->activity(communicator_.local())),
      runner_(config_, communicator_, at_, reporter_, activity_, shared.started),
      began_(steady_seconds()) {
  if (shared_.checkpoint)
    backend_->set_algorithms(shared_.checkpoint->algorithms);
  else if (const auto cache = algorithm_cache())
    backend_->set_algorithms(cache->load());
  build();
  load_state();
}

// Nothing where no choice is made by timing.
std::optional<AlgorithmCache> Trainer::algorithm_cache() const {
  const BackendInfo& info = backend_->info();
  if (config_.deterministic || info.kind != BackendKind::cuda) return std::nullopt;
  return AlgorithmCache(cache_folder(), fmt::format("{}; engine {} {}; --conv {}, --workspace {}",
                                                    info.description, kBuild.version, kBuild.git,
                                                    name_of(config_.conv), config_.workspace));
}

double Trainer::seconds() const {
  return at_.seconds + steady_seconds() - began_;
}

int64_t Trainer::updates_per_epoch() const {
  const int64_t batches = steps_per_epoch(static_cast<int64_t>(shared_.data.train.samples.size()),
                                          config_.batch, share_of(communicator_));
  return (batches + config_.accumulate - 1) / config_.accumulate;
}

void Trainer::build() {
  const TrainingData& data = shared_.data;
  preprocess_ = with_crop(config_.preprocess, image_size(config_.growth, config_.preprocess.crop,
                                                         at_.epoch, config_.epochs));
  Graph graph = training_graph(config_, data, preprocess_.crop);
  SessionOptions options = session_options(shared_, graph, communicator_, at_);
  head_alone_ = config_.rules.head_alone(at_.epoch);
  const auto pixels = packed_on_device() ? data.train.pack->pixels() : std::span<const uint8_t>();
  options.pack_bytes = pixels.size();
  auto session = std::make_unique<Session>(std::move(graph), *backend_, options);
  if (!pixels.empty()) session->write_pack(0, pixels);
  runner_.use(std::move(session), training_loader(), data.train, preprocess_.crop);
  validation_loader_ = evaluation_loader(data.validation);
}

std::unique_ptr<Loader> Trainer::training_loader() {
  const Dataset& data = shared_.data.train;
  const LoaderOptions loading =
      loader_options(config_, preprocess_, communicator_, *backend_, true);
  if (packed_on_device())
    return std::make_unique<Loader>(data, record_input(data, preprocess_, config_.augment),
                                    loading);
  Prepare prepare = training_input(data, preprocess_, config_.augment, config_.fast_decode);
  return std::make_unique<Loader>(
      data, config_.fault.in_loading(std::move(prepare), config_.batch, loading.share), loading);
}

std::unique_ptr<Loader> Trainer::evaluation_loader(const Dataset& data) {
  const LoaderOptions loading =
      loader_options(config_, preprocess_, communicator_, *backend_, false);
  if (packed_on_device())
    return std::make_unique<Loader>(data, record_input(data, preprocess_, preset(Augment::none)),
                                    loading);
  return std::make_unique<Loader>(data, evaluation_input(data, preprocess_), loading);
}

// ---------------------------------------------------------------- the loop

void Trainer::run() {
  // Nobody steps before all are ready.
  if (communicator_.ranks() > 1)
    check_equal_weights(communicator_, session().graph(), session().state(), at_.step);
  time_is_up_ = config_.max_minutes > 0 && at_.seconds >= 60 * config_.max_minutes;
  // An interruption may have come before the last validation, which is then made up for.
  if (at_.step > 0 && over() && at_.validated != at_.step) finish_epoch();
  while (!over()) train_epoch();
  if (should_stop(config_.early_stop, at_.early_stop))
    reporter_.say(
        fmt::format("stopped early: {} epochs without improvement", at_.early_stop.bad_epochs));
  if (at_.best.epoch == 0)
    reporter_.say(fmt::format("no epoch is the best: {} is not defined in any", to_string(watch_)));
  else
    reporter_.say(fmt::format("best: epoch {}, {} {:.4f}, loss {:.4f}{}", at_.best.epoch,
                              config_.loss.task == Task::labels ? "all labels right" : "top-1",
                              at_.best.top1, at_.best.loss, watched_text(watch_, at_.best.merit)));
  finish_saving();
  score_best();
}

bool Trainer::cut_short() const {
  return time_is_up_ || (config_.max_steps > 0 && at_.step >= config_.max_steps);
}

bool Trainer::over() const {
  return at_.epoch >= config_.epochs || cut_short() ||
         should_stop(config_.early_stop, at_.early_stop);
}

void Trainer::train_epoch() {
  if (image_size(config_.growth, config_.preprocess.crop, at_.epoch, config_.epochs) !=
      preprocess_.crop)
    change_size();
  if (head_alone_ != config_.rules.head_alone(at_.epoch)) change_rule();
  at_.loss_sums.resize(communicator_.ranks());
  Loader& loader = runner_.loader();
  const int64_t done = at_.position / batch_of_all();
  const auto images = static_cast<int64_t>(shared_.data.train.samples.size());
  const int64_t left =
      steps_per_epoch(images - at_.position, config_.batch, share_of(communicator_));
  reporter_.begin_epoch(at_.epoch + 1, done + left, done, steps_after(left));
  loader.start(at_.epoch, at_.position);
  while (!cut_short()) {
    const int64_t before = at_.step;
    if (!train_step(schedule_.rate(at_.scheduled))) break;
    // The device is at work by then.
    if (before == 0 && at_.step == 1) reporter_.show_examples(shared_.data.train, preprocess_);
    const Wish wish = this->wish();
    if (wish == Wish::explain) explain_divergence();
    time_is_up_ = wish == Wish::end;
    if (wish != Wish::leave &&
        (config_.checkpoint_every == 0 || at_.step % config_.checkpoint_every != 0))
      continue;
    settle();
    save(false);
    if (wish == Wish::leave) leave(fmt::format("after step {}", at_.step));
  }
  settle();
  finish_epoch();
}

// The steps of the epochs after this one, of which `left` steps are left.
int64_t Trainer::steps_after(int64_t left) const {
  const auto images = static_cast<int64_t>(shared_.data.train.samples.size());
  const int64_t epochs = config_.epochs - at_.epoch - 1,
                steps = epochs * steps_per_epoch(images, config_.batch, share_of(communicator_));
  if (config_.max_steps == 0) return steps;
  return std::clamp<int64_t>((config_.max_steps - at_.step) * config_.accumulate - left, 0, steps);
}

// False at the end of the epoch.
bool Trainer::train_step(double rate) {
  const auto taken = runner_.step(rate);
  if (!taken) return false;
  report_saved();
  reporter_.step(taken->images, taken->waited);
  return true;
}

// All ranks decide together, so that they stop after the same step: one that was asked to leave is
// enough, as is one that met something that is not finite; rank 0's clock counts.
Trainer::Wish Trainer::wish() {
  const bool late = config_.max_minutes > 0 && seconds() >= 60 * config_.max_minutes;
  double votes[] = {stop_requested() ? 1. : 0., leads() && late ? 1. : 0.,
                    runner_.divergence() ? 1. : 0.};
  communicator_.group->sum<double>(communicator_.rank, votes);
  if (votes[2] > 0) return Wish::explain;
  return votes[0] > 0 ? Wish::leave : votes[1] > 0 ? Wish::end : Wish::go_on;
}

void Trainer::settle() {
  runner_.drain(true);
  double diverged[] = {runner_.divergence() ? 1. : 0.};
  communicator_.group->sum<double>(communicator_.rank, diverged);
  if (diverged[0] > 0) explain_divergence();
  runner_.gather_losses();
}

// All ranks have taken the same steps, and the parameters still are those of the one that failed:
// they take it once more, looking at every result, unless --detect-anomaly has done so.
void Trainer::explain_divergence() {
  runner_.drain(true);
  Divergence met = *earliest(communicator_, runner_.divergence());
  if (met.first.empty()) met = *earliest(communicator_, runner_.replay(met));
  reporter_.log_divergence(met);
  finish_saving();
  communicator_.group->barrier(communicator_.rank);  // no rank ends before the others know
  fail(Failure::diverged, "{}", to_string(met));
}

void Trainer::require_finite(const std::map<std::string, Tensor>& tensors) const {
  const std::optional<std::string> fault = fault_in(tensors);
  require(!fault, Failure::diverged,
          "epoch {}, step {}: {}; nothing is saved of it, a smaller --lr may help", at_.epoch + 1,
          at_.step, fault.value_or(""));
}

}  // namespace engine

#include "tools/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/data/mix.h"
#include "io/data/sample.h"
#include "tools/cli/clock.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "tools/machine/device.h"
#include "tools/train/training_plan.h"

namespace engine {

namespace {

constexpr int kTolerableOverflows = 50;  // in a row, before fp16 training counts as diverged

Share share_of(const Communicator& c) {
  return {c.rank, c.ranks()};
}

int64_t updates_per_epoch(const TrainShared& shared, const Communicator& communicator) {
  const int64_t batches = steps_per_epoch(static_cast<int64_t>(shared.data.train.samples.size()),
                                          shared.config.batch, share_of(communicator));
  return (batches + shared.config.accumulate - 1) / shared.config.accumulate;
}

SessionOptions session_options(const TrainShared& shared, const Graph& graph,
                               const Communicator& communicator) {
  const TrainConfig& c = shared.config;
  const Share share = share_of(communicator);
  SessionOptions o{.precision = c.precision,
                   .conv = c.conv,
                   .deterministic = c.deterministic,
                   .frozen_norms = c.frozen_norms,
                   .workspace = c.workspace,
                   .optimizer = c.optimizer,
                   .rule = parameter_rule(c.rules, graph),
                   .ema_decay = c.ema_decay,
                   .accumulates = c.accumulate > 1,
                   .loss = c.loss,
                   .mixing = c.augment.mixing.used(),
                   .normalisation = normalisation_of(c.preprocess),
                   .loss_scale = c.loss_scale,
                   .seed = c.seed};
  o.programs = programs_for(shared.data.train.samples.size(), c.batch, share, Mode::train);
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

}  // namespace

int image_size(const SizeGrowth& growth, int size, int epoch, int epochs) {
  constexpr int kStages = 4, kMultiple = 32;
  if (growth.last == 0) return size;
  const int stage = std::min(kStages - 1, epoch * kStages / std::max(1, epochs));
  if (stage == kStages - 1) return growth.last;
  const double exact = growth.first + double(growth.last - growth.first) * stage / (kStages - 1);
  return std::clamp(static_cast<int>(std::lround(exact / kMultiple)) * kMultiple, growth.first,
                    growth.last);
}

// ---------------------------------------------------------------- beginning

Trainer::Trainer(TrainShared& shared, BackendKind kind, const BackendOptions& options)
    : shared_(shared),
      config_(shared.config),
      communicator_(options.communicator),
      backend_(make_backend(kind, options)),
      at_(shared.checkpoint ? shared.checkpoint->at : TrainPosition{}),
      schedule_(config_.schedule, updates_per_epoch(shared, communicator_), config_.epochs,
                at_.schedule),
      began_(steady_seconds()) {
  if (shared_.checkpoint)
    backend_->set_algorithms(nlohmann::json::parse(shared_.checkpoint->facts.at("algorithms")));
  build();
  load_state();
}

void Trainer::say(const std::string& line) {
  if (!leads()) return;
  if (progress_) progress_->clear();
  engine::say(line);
  shared_.run.note(line);
}

void Trainer::begin_progress(const std::string& title, int64_t steps, int64_t first_step) {
  if (leads()) progress_ = std::make_unique<Progress>(title, steps, first_step);
}

double Trainer::seconds() const {
  return at_.seconds + steady_seconds() - began_;
}

void Trainer::build() {
  const TrainingData& data = shared_.data;
  preprocess_ = with_crop(config_.preprocess, image_size(config_.growth, config_.preprocess.crop,
                                                         at_.epoch, config_.epochs));
  Graph graph = training_graph(config_, data, preprocess_.crop);
  SessionOptions options = session_options(shared_, graph, communicator_);
  const auto pixels = packed_on_device() ? data.train.pack->pixels() : std::span<const uint8_t>();
  options.pack_bytes = pixels.size();
  session_ = std::make_unique<Session>(std::move(graph), *backend_, options);
  if (!pixels.empty()) session_->write_pack(0, pixels);
  const LoaderOptions loading =
      loader_options(config_, preprocess_, communicator_, *backend_, true);
  train_loader_ =
      packed_on_device()
          ? std::make_unique<Loader>(
                data.train, record_input(data.train, preprocess_, config_.augment), loading)
          : std::make_unique<Loader>(
                data.train,
                training_input(data.train, preprocess_, config_.augment, config_.fast_decode),
                loading);
  validation_loader_ = evaluation_loader(data.validation);
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
  communicator_.group->barrier();  // nobody steps before all are ready
  time_is_up_ = config_.max_minutes > 0 && at_.seconds >= 60 * config_.max_minutes;
  const bool unseen =
      at_.validated != at_.step;  // the interruption came before the last validation
  if (at_.step > 0 && over() && unseen) finish_epoch(0, 0);
  while (!over()) train_epoch();
  if (should_stop(config_.early_stop, at_.early_stop))
    say(fmt::format("stopped early: {} epochs without improvement", at_.early_stop.bad_epochs));
  say(fmt::format("best: epoch {}, top-1 {:.4f}, loss {:.4f}", at_.best.epoch, at_.best.top1,
                  at_.best.loss));
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
  at_.loss_sums.resize(communicator_.ranks());
  begin_progress(fmt::format("epoch {}/{}", at_.epoch + 1, config_.epochs), train_loader_->steps(),
                 at_.epoch_step);
  if (leads()) shared_.monitor.take();  // what was used so far is not this epoch's
  train_loader_->start(at_.epoch, at_.epoch_step);
  while (!cut_short() && train_step(schedule_.rate(at_.step))) {
    const Wish wish = this->wish();
    time_is_up_ = wish == Wish::end;
    if (wish != Wish::leave &&
        (config_.checkpoint_every == 0 || at_.step % config_.checkpoint_every != 0))
      continue;
    drain(true);
    gather_losses();
    save(false);
    if (wish == Wish::leave) leave(fmt::format("after step {}", at_.step));
  }
  drain(true);
  gather_losses();
  double rate = 0, wait_share = 0;
  if (progress_) {
    progress_->finish();
    rate = progress_->images_per_second();
    wait_share = progress_->wait_share();
    progress_.reset();
  }
  finish_epoch(rate, wait_share);
}

// One update, of `accumulate` batches or what the epoch has left. False at its end.
bool Trainer::train_step(double rate) {
  const double waited = train_loader_->wait_seconds();
  struct Part {
    const Batch* batch;
    std::vector<Mix> mixes;
    double weight;
  };
  std::vector<Part> parts;
  double divisor = 0;  // first of this rank's targets
  int64_t images = 0;
  while (static_cast<int>(parts.size()) < config_.accumulate) {
    const Batch* b = train_loader_->next();
    if (!b) break;
    std::vector<Mix> mixes = draw_mixes_of(*b);
    const double weight =
        target_weight(config_.loss, std::span(b->labels, size_t(b->count)), mixes);
    parts.push_back({b, std::move(mixes), weight});
    divisor += weight;
    images += b->total;
  }
  if (parts.empty()) return false;
  if (config_.loss.class_weights.empty())
    divisor = static_cast<double>(images);  // every rank knows it without meeting
  else
    communicator_.group->sum(communicator_.rank, std::span(&divisor, 1));
  for (const Part& part : parts) {
    const Batch& b = *part.batch;
    const bool update = &part == &parts.back();
    const HostBatch host{.images = b.images,
                         .labels = b.labels,
                         .count = b.count,
                         .records = b.records,
                         .mixes = part.mixes.empty() ? nullptr : part.mixes.data()};
    const StepInput input{.epoch = static_cast<uint32_t>(at_.epoch),
                          .position = static_cast<uint32_t>(b.first),
                          .learning_rate = rate,
                          .divisor = divisor};
    const uint64_t step = update ? session_->train(host, input) : session_->accumulate(host, input);
    pending_.push_back({step, update, part.weight, divisor, rate});
  }
  at_.epoch_step += static_cast<int64_t>(parts.size());
  ++at_.step;
  drain(false);
  report_saved();
  if (progress_) progress_->step(images, train_loader_->wait_seconds() - waited);
  return true;
}

std::vector<Mix> Trainer::draw_mixes_of(const Batch& batch) const {
  const Mixing& mixing = config_.augment.mixing;
  if (!mixing.used() || batch.count == 0) return {};
  const RandomKey key{.seed = config_.seed,
                      .epoch = static_cast<uint32_t>(at_.epoch),
                      .position = static_cast<uint32_t>(batch.first)};
  return sample_mixes(mixing, key, batch.count, preprocess_.crop, preprocess_.crop);
}

// Rank 0 decides, so that all ranks stop after the same step.
Trainer::Wish Trainer::wish() {
  Wish wish = Wish::go_on;
  if (stop_requested())
    wish = Wish::leave;
  else if (config_.max_minutes > 0 && seconds() >= 60 * config_.max_minutes)
    wish = Wish::end;
  communicator_.group->broadcast(communicator_.rank, std::as_writable_bytes(std::span(&wish, 1)));
  return wish;
}

void Trainer::drain(bool wait) {
  while (!pending_.empty() && (wait || session_->poll(pending_.front().step))) {
    count_result(pending_.front());
    pending_.pop_front();
  }
}

void Trainer::count_result(const Pending& pending) {
  const StepResult result = session_->result(pending.step);
  if (pending.update) {
    overflows_ = result.overflow ? overflows_ + 1 : 0;
    require(overflows_ < kTolerableOverflows, Failure::diverged,
            "epoch {}: {} steps in a row overflowed; the loss scale is down to {}", at_.epoch + 1,
            overflows_, result.scale);
    require(std::isfinite(result.loss) || result.overflow, Failure::diverged,
            "epoch {}, step {}: the loss is {}; a smaller --lr may help", at_.epoch + 1, at_.step,
            result.loss);
    at_.weight += pending.divisor;
    shared_.started = true;
  }
  if (!std::isfinite(result.loss)) return;  // skipped; it does not count
  at_.loss_sums[communicator_.rank] += result.loss * pending.divisor;
  if (pending.weight == 0) return;
  const double loss = result.loss * pending.divisor / pending.weight;  // this rank's mean
  if (progress_) progress_->loss(loss);
  if (!pending.update || !leads()) return;
  const auto later =
      std::count_if(pending_.begin(), pending_.end(), [](const Pending& p) { return p.update; }) -
      1;  // `pending` is still among them
  const int64_t step = at_.step - later;
  if (step % config_.log_every == 0)
    shared_.run.log_step(at_.epoch + 1, step,
                         {{"loss", loss}, {"lr", pending.rate}, {"scale", result.scale}});
}

// Every rank learns the others' sums. Each goes on with its own, so that meeting more often changes no bit.
void Trainer::gather_losses() {
  for (int rank = 0; rank < communicator_.ranks(); ++rank)
    if (rank != communicator_.rank) at_.loss_sums[rank] = 0;
  communicator_.group->sum(communicator_.rank, std::span(at_.loss_sums));
}

}  // namespace engine

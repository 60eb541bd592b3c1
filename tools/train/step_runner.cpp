#include "tools/train/step_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

namespace engine {
namespace {

constexpr int kTolerableOverflows = 50;  // in a row, before fp16 training counts as diverged

}  // namespace

StepRunner::StepRunner(const TrainConfig& config, const Communicator& communicator,
                       TrainPosition& at, Reporter& reporter, Activity& activity,
                       std::atomic<bool>& started)
    : config_(config),
      communicator_(communicator),
      at_(at),
      reporter_(reporter),
      activity_(activity),
      started_(started) {}

void StepRunner::use(std::unique_ptr<Session> session, std::unique_ptr<Loader> loader,
                     const Dataset& data, int image_size) {
  session_ = std::move(session);
  loader_ = std::move(loader);
  data_ = &data;
  image_size_ = image_size;
  activity_.observe(session_->collectives(), [this] { return loader_->under_way(); });
}

void StepRunner::release() {
  activity_.observe({}, nullptr);
  loader_.reset();
  session_.reset();
}

std::optional<StepRunner::Taken> StepRunner::step(double rate) {
  const Divergence place{
      .epoch = at_.epoch, .position = at_.position, .update = at_.step + 1, .rate = rate};
  activity_.set(Doing::loading, place.update);
  const double waited = loader_->wait_seconds();
  const std::vector<Part> parts = take_parts();
  if (parts.empty()) return std::nullopt;
  activity_.set(Doing::computing);
  const double divisor = divisor_of(parts);
  if (!config_.fault.in_step(communicator_.rank, place.update))
    for (const Part& part : parts) enqueue(part, &part == &parts.back(), divisor, place);
  int64_t images = 0;
  for (const Part& part : parts) images += part.batch->total;
  at_.position += images;
  ++at_.step;
  ++at_.scheduled;
  drain(false);
  return Taken{images, loader_->wait_seconds() - waited};
}

std::vector<StepRunner::Part> StepRunner::take_parts() {
  std::vector<Part> parts;
  while (static_cast<int>(parts.size()) < config_.accumulate) {
    const Batch* b = loader_->next();
    if (!b) break;
    std::vector<Mix> mixes = mixes_of(*b);
    const double weight =
        target_weight(config_.loss, b->labels, b->count, session_->graph().classes(), mixes);
    parts.push_back({b, std::move(mixes), weight});
  }
  return parts;
}

// Of the targets of all ranks.
double StepRunner::divisor_of(const std::vector<Part>& parts) {
  double weight = 0;  // first of this rank's
  int64_t images = 0;
  for (const Part& part : parts) {
    weight += part.weight;
    images += part.batch->total;
  }
  if (config_.loss.task == Task::classes && config_.loss.class_weights.empty())
    return static_cast<double>(images);  // every rank knows it without meeting
  communicator_.group->sum(communicator_.rank, std::span(&weight, 1));
  return weight;
}

std::vector<Mix> StepRunner::mixes_of(const Batch& batch) const {
  const Mixing& mixing = config_.augment.mixing;
  if (!mixing.used() || batch.count == 0) return {};
  const RandomKey key{.seed = config_.seed,
                      .epoch = static_cast<uint32_t>(at_.epoch),
                      .position = static_cast<uint32_t>(batch.first)};
  return sample_mixes(mixing, key, batch.count, image_size_, image_size_);
}

HostBatch StepRunner::host_batch(const Part& part) const {
  const Batch& b = *part.batch;
  return {.images = b.images,
          .labels = b.labels,
          .count = b.count,
          .records = b.records,
          .mixes = part.mixes.empty() ? nullptr : part.mixes.data()};
}

StepInput StepRunner::input(const Part& part, double divisor, double rate) const {
  return {.epoch = static_cast<uint32_t>(at_.epoch),
          .position = static_cast<uint32_t>(part.batch->first),
          .learning_rate = rate,
          .divisor = divisor,
          .total = static_cast<int>(part.batch->total)};
}

std::vector<std::string> StepRunner::images_of(const Part& part) const {
  std::vector<std::string> paths;
  for (const uint32_t index : part.batch->indices) paths.push_back(data_->samples[index].path);
  return paths;
}

void StepRunner::enqueue(const Part& part, bool last, double divisor, const Divergence& place) {
  if (config_.detect_anomaly) {
    const Inspection found = inspect(part, last, divisor, place);
    pending_.push_back({found.step, last, part.weight, divisor, place});
    // Gradients that overflow are what the loss scale of fp16 waits for.
    if (!found.first || divergence_ || (found.first->backward && tolerates_overflows())) return;
    divergence_ = place;
    divergence_->what = "a result is not finite";
    divergence_->rank = communicator_.rank;
    divergence_->first = to_string(*found.first);
    divergence_->images = images_of(part);
    return;
  }
  const HostBatch host = host_batch(part);
  const StepInput in = input(part, divisor, place.rate);
  if (last) activity_.expect(session_->started() + 1, place.update);
  const uint64_t step = last ? session_->train(host, in) : session_->accumulate(host, in);
  pending_.push_back({step, last, part.weight, divisor, place});
}

Inspection StepRunner::inspect(const Part& part, bool last, double divisor,
                               const Divergence& place) {
  if (last) activity_.expect(session_->started() + 1, place.update);
  return session_->inspect(host_batch(part), input(part, divisor, place.rate),
                           last ? Mode::train : Mode::accumulate);
}

Divergence StepRunner::replay(Divergence met) {
  met.rank = communicator_.rank;
  loader_->start(static_cast<uint32_t>(met.epoch), met.position);
  const std::vector<Part> parts = take_parts();
  const double divisor = divisor_of(parts);
  met.first.clear();
  met.images.clear();
  for (const Part& part : parts) {
    const Inspection found = inspect(part, &part == &parts.back(), divisor, met);
    const std::vector<std::string> images = images_of(part);
    if (!met.first.empty()) continue;
    met.images.insert(met.images.end(), images.begin(), images.end());
    if (!found.first) continue;
    met.first = to_string(*found.first);
    met.images = images;
  }
  return met;
}

void StepRunner::drain(bool wait) {
  while (!pending_.empty() && (wait || session_->poll(pending_.front().step))) {
    count(pending_.front());
    pending_.pop_front();
  }
}

bool StepRunner::tolerates_overflows() const {
  return config_.precision == Precision::fp16;
}

// Notes what is not finite.
void StepRunner::judge(const Pending& pending, const StepResult& result) {
  overflows_ = result.overflow ? overflows_ + 1 : 0;
  const bool finite = std::isfinite(result.loss);
  const bool over = tolerates_overflows() ? overflows_ >= kTolerableOverflows : overflows_ > 0;
  if (divergence_ || (!over && (finite || result.overflow))) return;
  divergence_ = pending.place;
  if (!finite)
    divergence_->what = fmt::format("the loss is {}", std::abs(result.loss));
  else
    divergence_->what = "a gradient is not finite";
  if (tolerates_overflows() && over)
    divergence_->what +=
        fmt::format(", after {} steps in a row that overflowed; the loss scale is {}", overflows_,
                    result.scale);
}

// The losses of a skipped update do not count.
void StepRunner::count(const Pending& pending) {
  const StepResult result = session_->result(pending.step);
  if (pending.last) {
    judge(pending, result);
    started_ = true;
  }
  const bool finite = std::isfinite(result.loss);
  uncounted_ += !finite;
  update_loss_ += result.loss * pending.divisor;
  if (pending.last) {
    if (!result.overflow && std::isfinite(update_loss_)) {
      at_.loss_sums[communicator_.rank] += update_loss_;
      at_.weight += pending.divisor;
    }
    update_loss_ = 0;
  }
  if (!finite || pending.weight == 0) return;
  const double loss = result.loss * pending.divisor / pending.weight;  // this rank's mean
  reporter_.loss(loss);
  if (pending.last)
    reporter_.update(pending.place.epoch + 1, pending.place.update, loss, pending.place.rate,
                     result.scale);
}

void StepRunner::gather_losses() {
  for (int rank = 0; rank < communicator_.ranks(); ++rank)
    if (rank != communicator_.rank) at_.loss_sums[rank] = 0;
  communicator_.group->sum(communicator_.rank, std::span(at_.loss_sums));
}

}  // namespace engine

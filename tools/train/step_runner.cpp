#include "tools/train/step_runner.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "engine/error.h"

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
                     int image_size) {
  session_ = std::move(session);
  loader_ = std::move(loader);
  image_size_ = image_size;
  activity_.observe(session_->collectives(), [this] { return loader_->under_way(); });
}

void StepRunner::release() {
  activity_.observe({}, nullptr);
  loader_.reset();
  session_.reset();
}

std::optional<StepRunner::Taken> StepRunner::step(double rate) {
  const int64_t update = at_.step + 1;
  activity_.set(Doing::loading, update);
  const double waited = loader_->wait_seconds();
  const std::vector<Part> parts = take_parts();
  if (parts.empty()) return std::nullopt;
  activity_.set(Doing::computing);
  double divisor = 0;  // first of this rank's targets
  int64_t images = 0;
  for (const Part& part : parts) {
    divisor += part.weight;
    images += part.batch->total;
  }
  if (config_.loss.class_weights.empty())
    divisor = static_cast<double>(images);  // every rank knows it without meeting
  else
    communicator_.group->sum(communicator_.rank, std::span(&divisor, 1));
  if (!config_.fault.in_step(communicator_.rank, update))
    for (const Part& part : parts) enqueue(part, &part == &parts.back(), divisor, rate);
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
        target_weight(config_.loss, std::span(b->labels, size_t(b->count)), mixes);
    parts.push_back({b, std::move(mixes), weight});
  }
  return parts;
}

std::vector<Mix> StepRunner::mixes_of(const Batch& batch) const {
  const Mixing& mixing = config_.augment.mixing;
  if (!mixing.used() || batch.count == 0) return {};
  const RandomKey key{.seed = config_.seed,
                      .epoch = static_cast<uint32_t>(at_.epoch),
                      .position = static_cast<uint32_t>(batch.first)};
  return sample_mixes(mixing, key, batch.count, image_size_, image_size_);
}

void StepRunner::enqueue(const Part& part, bool update, double divisor, double rate) {
  const Batch& b = *part.batch;
  const HostBatch host{.images = b.images,
                       .labels = b.labels,
                       .count = b.count,
                       .records = b.records,
                       .mixes = part.mixes.empty() ? nullptr : part.mixes.data()};
  const StepInput input{.epoch = static_cast<uint32_t>(at_.epoch),
                        .position = static_cast<uint32_t>(b.first),
                        .learning_rate = rate,
                        .divisor = divisor,
                        .total = static_cast<int>(b.total)};
  if (update) activity_.expect(session_->started() + 1, at_.step + 1);
  const uint64_t step = update ? session_->train(host, input) : session_->accumulate(host, input);
  pending_.push_back({step, update, part.weight, divisor, rate});
}

void StepRunner::drain(bool wait) {
  while (!pending_.empty() && (wait || session_->poll(pending_.front().step))) {
    count(pending_.front());
    pending_.pop_front();
  }
}

void StepRunner::count(const Pending& pending) {
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
    started_ = true;
  }
  if (!std::isfinite(result.loss)) return;  // skipped; it does not count
  at_.loss_sums[communicator_.rank] += result.loss * pending.divisor;
  if (pending.weight == 0) return;
  const double loss = result.loss * pending.divisor / pending.weight;  // this rank's mean
  reporter_.loss(loss);
  if (!pending.update) return;
  const auto updates =  // this one and those after it
      std::count_if(pending_.begin(), pending_.end(), [](const Pending& p) { return p.update; });
  reporter_.update(at_.epoch + 1, at_.step - (updates - 1), loss, pending.rate, result.scale);
}

void StepRunner::gather_losses() {
  for (int rank = 0; rank < communicator_.ranks(); ++rank)
    if (rank != communicator_.rank) at_.loss_sums[rank] = 0;
  communicator_.group->sum(communicator_.rank, std::span(at_.loss_sums));
}

}  // namespace engine

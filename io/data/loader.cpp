#include "io/data/loader.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <opencv2/core.hpp>
#include <utility>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/data/unreadable.h"

namespace engine {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector load

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Each loader thread works on its own image; OpenCV's pool would only add threads that compete with
// them.
void keep_opencv_single_threaded() {
  static std::once_flag once;
  std::call_once(once, [] { cv::setNumThreads(0); });
}

LoaderOptions checked(LoaderOptions o) {
  require(std::min({o.batch, o.threads, o.ahead, o.keep, o.share.ranks}) >= 1, Failure::usage,
          "batch {}, threads {}, ahead {}, keep {} and ranks {} must be at least 1", o.batch,
          o.threads, o.ahead, o.keep, o.share.ranks);
  require(o.share.rank >= 0 && o.share.rank < o.share.ranks, Failure::usage, "rank {} of {}",
          o.share.rank, o.share.ranks);
  return o;
}

}  // namespace

std::vector<uint32_t> epoch_order(size_t samples, uint64_t seed, uint32_t epoch, bool shuffle) {
  require(samples <= std::numeric_limits<uint32_t>::max(), Failure::data,
          "{} samples are more than a data set can have", samples);
  std::vector<uint32_t> order(samples);
  std::iota(order.begin(), order.end(), 0u);
  if (!shuffle) return order;
  Rng rng({.seed = seed, .epoch = epoch, .purpose = purpose("shuffle")});
  for (uint32_t left = static_cast<uint32_t>(samples); left > 1; --left)
    std::swap(order[left - 1], order[rng.below(left)]);
  return order;
}

std::vector<uint32_t> balanced_order(const Dataset& dataset, uint64_t seed, uint32_t epoch) {
  require(dataset.task == Task::classes, Failure::usage,
          "--sampler balanced draws classes, and these images have several labels each");
  std::vector<std::vector<uint32_t>> by_class(dataset.classes.size());
  for (size_t i = 0; i < dataset.samples.size(); ++i)
    by_class[dataset.samples[i].label].push_back(static_cast<uint32_t>(i));
  std::erase_if(by_class, [](const auto& members) { return members.empty(); });
  std::vector<uint32_t> order(dataset.samples.size());
  for (size_t position = 0; position < order.size(); ++position) {
    Rng rng({.seed = seed,
             .epoch = epoch,
             .position = static_cast<uint32_t>(position),
             .purpose = purpose("balanced")});
    const auto& members = by_class[rng.below(static_cast<uint32_t>(by_class.size()))];
    order[position] = members[rng.below(static_cast<uint32_t>(members.size()))];
  }
  return order;
}

int64_t steps_per_epoch(int64_t samples, int batch, Share share) {
  const int64_t per_step = int64_t{batch} * share.ranks;
  return (samples + per_step - 1) / per_step;
}

StepShare share_of_step(int64_t samples, int batch, Share share, int64_t step) {
  return share_from(samples, batch, share, step * batch * share.ranks);
}

StepShare share_from(int64_t samples, int batch, Share share, int64_t position) {
  const int64_t total = std::min(int64_t{batch} * share.ranks, samples - position);
  const int64_t base = total / share.ranks,
                longer = total % share.ranks;  // that many of the first ranks have one more
  return {.first = position + share.rank * base + std::min<int64_t>(share.rank, longer),
          .count = static_cast<int>(base + (share.rank < longer)),
          .total = static_cast<int>(total)};
}

HostAllocator plain_memory() {
  return {.allocate = [](size_t bytes) { return std::aligned_alloc(kAlignment, aligned(bytes)); },
          .free = [](void* memory) { std::free(memory); }};
}

Loader::Loader(const Dataset& dataset, std::variant<Prepare, PrepareRecord> prepare,
               LoaderOptions options)
    : dataset_(dataset),
      prepare_(std::move(prepare)),
      options_(checked(std::move(options))),
      steps_(steps_per_epoch(static_cast<int64_t>(dataset.samples.size()), options_.batch,
                             options_.share)),
      image_bytes_(size_t(options_.width) * options_.height * options_.channels) {
  require(steps_ > 0, Failure::data, "the data set has no images");
  for (int i = 0; i < options_.ahead + options_.keep; ++i) slots_.push_back(make_slot());
  keep_opencv_single_threaded();
  for (int i = 0; i < options_.threads; ++i)
    threads_.emplace_back([this](std::stop_token stop) { work(std::move(stop)); });
}

Loader::~Loader() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

Loader::Slot Loader::make_slot() const {
  const bool pixels = std::holds_alternative<Prepare>(prepare_);
  const size_t input_bytes =
      aligned((pixels ? image_bytes_ : sizeof(ImageRecord)) * options_.batch);
  const bool of_labels = dataset_.task == Task::labels;
  const size_t target_bytes =
      of_labels ? sizeof(Presence) * dataset_.classes.size() : sizeof(int32_t);
  const size_t bytes = input_bytes + target_bytes * options_.batch;
  Slot slot{.memory = Memory(options_.memory.allocate(bytes), options_.memory.free)};
  require(slot.memory != nullptr, Failure::memory, "no memory for a batch of {} images, {} bytes",
          options_.batch, bytes);
  auto* input = static_cast<uint8_t*>(slot.memory.get());
  if (pixels)
    slot.images = input;
  else
    slot.records = reinterpret_cast<ImageRecord*>(input);
  if (of_labels)
    slot.presence = reinterpret_cast<Presence*>(input + input_bytes);
  else
    slot.labels = reinterpret_cast<int32_t*>(input + input_bytes);
  slot.indices.resize(options_.batch);
  slot.substituted.resize(options_.batch);
  return slot;
}

void Loader::start(uint32_t epoch, int64_t position) {
  std::unique_lock lock(mutex_);
  left_ = 0;
  end_ = opened_;
  ready_.wait(lock, [this] { return busy_.empty(); });
  epoch_ = epoch;
  order_ = options_.balanced
               ? balanced_order(dataset_, options_.seed, epoch)
               : epoch_order(dataset_.samples.size(), options_.seed, epoch, options_.shuffle);
  for (Slot& slot : slots_) slot.error = nullptr;
  position_ = position;
  first_step_ = position / (int64_t{options_.batch} * options_.share.ranks);
  given_ = opened_ = first_step_;
  end_ = first_step_ + steps_per_epoch(static_cast<int64_t>(order_.size()) - position,
                                       options_.batch, options_.share);
  work_.notify_all();
}

const Batch* Loader::next() {
  std::unique_lock lock(mutex_);
  if (given_ >= end_) return nullptr;
  Slot& slot = slot_of(given_);
  const auto before = std::chrono::steady_clock::now();
  ready_.wait(lock, [&] { return opened_ > given_ && slot.remaining == 0; });
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  if (slot.error) std::rethrow_exception(slot.error);
  ++given_;
  work_.notify_all();
  return &slot.batch;
}

std::vector<BadImage> Loader::bad_images() const {
  const std::lock_guard lock(mutex_);
  std::vector<BadImage> list;
  for (const auto& [index, reason] : bad_)
    list.push_back({dataset_.samples[index].path, reason, index});
  return list;
}

std::string Loader::under_way() const {
  const std::lock_guard lock(mutex_);
  return busy_.empty() ? "" : dataset_.samples[order_[*busy_.begin()]].path;
}

// What every thread does: takes the next sample of the step opened last, or opens the next step
// once the consumer is less than `ahead` batches behind.
void Loader::work(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  const auto may_open = [this] { return opened_ < std::min(end_, given_ + options_.ahead); };
  while (work_.wait(lock, stop, [&] { return left_ > 0 || may_open(); }) &&
         !stop.stop_requested()) {
    if (left_ == 0) {
      open_step();
      continue;
    }
    Slot& slot = slot_of(opened_ - 1);
    const int i = slot.batch.count - left_--;
    const int64_t position = slot.batch.first + i;
    busy_.insert(position);
    lock.unlock();
    std::exception_ptr error;
    try {
      prepare_sample(slot, i);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    // If samples of a batch fail, the first of them is reported, whichever thread was faster.
    if (error && (!slot.error || i < slot.error_at))
      slot.error = std::exchange(error, nullptr), slot.error_at = i;
    --slot.remaining;
    busy_.erase(position);
    if (slot.remaining == 0 || busy_.empty()) ready_.notify_all();
  }
}

void Loader::open_step() {
  Slot& slot = slot_of(opened_);
  const int64_t per_step = int64_t{options_.batch} * options_.share.ranks;
  const StepShare part = share_from(static_cast<int64_t>(order_.size()), options_.batch,
                                    options_.share, position_ + (opened_ - first_step_) * per_step);
  const size_t count = part.count;
  slot.batch = {.images = slot.images,
                .records = slot.records,
                .labels = slot.presence ? Targets(slot.presence) : Targets(slot.labels),
                .indices = std::span(slot.indices).first(count),
                .substituted = std::span(slot.substituted).first(count),
                .step = opened_,
                .first = part.first,
                .count = part.count,
                .total = part.total};
  slot.error = nullptr;
  slot.remaining = left_ = part.count;
  ++opened_;
  if (part.count == 0) ready_.notify_all();
}

void Loader::prepare_sample(Slot& slot, int i) {
  const size_t position = slot.batch.first + i, samples = order_.size();
  const RandomKey key = {.seed = options_.seed,
                         .epoch = epoch_,
                         .position = static_cast<uint32_t>(position),
                         .purpose = purpose("augment")};
  for (size_t offset = 0; offset < samples; ++offset) {
    if (!try_sample(slot, i, order_[(position + offset) % samples], key)) continue;
    slot.substituted[i] = offset > 0;
    return;
  }
  fail(Failure::data, "none of the {} images can be read, the first because: {}", samples,
       bad_images().front().reason);
}

// False if the image is bad and may be skipped.
bool Loader::try_sample(Slot& slot, int i, uint32_t index, const RandomKey& key) {
  if (known_bad(index)) return false;
  try {
    if (const auto* prepare_record = std::get_if<PrepareRecord>(&prepare_))
      slot.records[i] = (*prepare_record)(index, key);
    else
      place(slot, i, std::get<Prepare>(prepare_)(index, key), index);
  } catch (const Error& error) {
    if (error.kind != Failure::data) throw;
    if (options_.on_bad_image == OnBadImage::error) fail_unreadable(error);
    const std::lock_guard lock(mutex_);
    bad_.emplace(index, error.what());
    return false;
  }
  const Sample& sample = dataset_.samples[index];
  if (slot.presence)
    std::ranges::copy(sample.labels, slot.presence + i * dataset_.classes.size());
  else
    slot.labels[i] = sample.label;
  slot.indices[i] = index;
  return true;
}

void Loader::place(Slot& slot, int i, const Image& image, uint32_t index) const {
  require(image.width == options_.width && image.height == options_.height &&
              image.channels == options_.channels,
          Failure::internal, "{}: prepared as {}x{}x{}, the batch takes {}x{}x{}",
          dataset_.samples[index].path, image.width, image.height, image.channels, options_.width,
          options_.height, options_.channels);
  std::memcpy(slot.images + i * image_bytes_, image.pixels.data(), image_bytes_);
}

bool Loader::known_bad(uint32_t index) const {
  const std::lock_guard lock(mutex_);
  return bad_.contains(index);
}

}  // namespace engine

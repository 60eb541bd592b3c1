// Batches of prepared images, or of records of images in a pack, for one rank: the order of an
// epoch, each rank's share of a step, and the threads that prepare samples ahead of the consumer.
// Batches are the same for any number of threads. What happens to one image (decoding,
// augmentation) is a function of the caller's.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "io/data/dataset.h"
#include "io/images/image.h"
#include "kernels/image.h"
#include "kernels/random.h"
#include "kernels/targets.h"

namespace engine {

// The samples in the order in which an epoch visits them: shuffled (Fisher–Yates), or as they are.
std::vector<uint32_t> epoch_order(size_t samples, uint64_t seed, uint32_t epoch, bool shuffle);
// An epoch of as many positions as there are samples. At each a class is chosen at random and then
// one of its samples, both with equal chances, so some samples come several times and some not at
// all. Every position has a random key of its own. Error(usage) where images have several labels.
std::vector<uint32_t> balanced_order(const Dataset& dataset, uint64_t seed, uint32_t epoch);

struct Share {
  int rank = 0, ranks = 1;
};

struct StepShare {
  int64_t first = 0;  // the position in the epoch of this rank's first sample
  int count = 0;      // the samples of this rank
  int total = 0;      // the samples of all ranks, by which the loss is divided
};

// A global step takes batch · ranks consecutive positions; the last step takes what is left. Each
// rank has a contiguous part of them. The parts differ by at most one sample, so a rank has none
// only if fewer samples than ranks are left.
int64_t steps_per_epoch(int64_t samples, int batch, Share share);
StepShare share_of_step(int64_t samples, int batch, Share share, int64_t step);
// The share of the step that begins at a position, whatever steps came before it.
StepShare share_from(int64_t samples, int batch, Share share, int64_t position);

// Prepares sample `index` of the data set; all images of a loader have one size. Several threads
// call it at once. An Error of kind data means that the image is bad; any other exception ends the
// epoch.
using Prepare = std::function<Image(size_t index, const RandomKey& key)>;
// The same for a pack in device memory: says what is to be done with the sample there.
using PrepareRecord = std::function<ImageRecord(size_t index, const RandomKey& key)>;

enum class OnBadImage {
  error,  // next() throws what preparing it threw
  skip,   // the next readable sample of the epoch takes its place, so that batches keep their size
};

// Where a loader gets the memory of its batches, once; it may be pinned by a GPU's driver.
struct HostAllocator {
  std::function<void*(size_t bytes)> allocate;
  std::function<void(void*)> free;
};
HostAllocator plain_memory();

struct LoaderOptions {
  int width = 0, height = 0, channels = 3;  // of every prepared image
  int batch = 1;                            // samples per rank and step
  Share share{};
  int threads = 1;
  int ahead = 2;  // batches that are prepared while the caller works on others
  int keep = 1;   // a batch stays valid until next() has been called that often again
  uint64_t seed = 0;
  bool shuffle = true;
  bool balanced = false;  // take balanced_order() instead
  OnBadImage on_bad_image = OnBadImage::error;
  HostAllocator memory = plain_memory();
};

struct Batch {
  const uint8_t* images = nullptr;       // (count, H, W, C), or
  const ImageRecord* records = nullptr;  // (count)
  Targets labels;                        // (count), of the data set's task
  std::span<const uint32_t> indices;     // (count) positions in the data set
  // (count) 1 where another sample stands in for a bad one, which evaluation does not count.
  std::span<const uint8_t> substituted;
  int64_t step = 0;   // of the epoch, in steps of this loader's size
  int64_t first = 0;  // the position in the epoch of the first sample
  // The samples of this rank. A rank with none takes the step too: it adds zeros to the all-reduce.
  int count = 0;
  int total = 0;  // the samples of all ranks
};

struct BadImage {
  std::string path, reason;
  uint32_t index = 0;  // the position in the data set
};

class Loader {
 public:
  // `dataset` must outlive the loader. Batches of records have the same order, shares and keys as
  // batches of images.
  Loader(const Dataset& dataset, std::variant<Prepare, PrepareRecord> prepare,
         LoaderOptions options);
  // May be destroyed at any time; waits for the samples that are being prepared.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Begins to prepare an epoch from any of its positions, which another number of ranks may have
  // reached. What was being prepared is dropped, and no batch that was given out is valid any more.
  void start(uint32_t epoch, int64_t position = 0);

  // The next step's batch, or null after the last one. It is valid until start() or `keep` further
  // calls (by default until the next call). Throws what a sample of the batch threw, once all
  // batches before it were given out.
  const Batch* next();

  int64_t steps() const { return steps_; }               // the steps of an epoch
  double wait_seconds() const { return wait_seconds_; }  // the time spent in next() so far
  std::vector<BadImage> bad_images() const;              // each once, in the order of the data set
  // The first image in the order of the epoch that is being prepared; empty if none is. Any thread
  // may ask.
  std::string under_way() const;

 private:
  using Memory = std::unique_ptr<void, std::function<void(void*)>>;
  struct Slot {
    Memory memory;
    uint8_t* images = nullptr;  // of these two, the one that is not prepared is null
    ImageRecord* records = nullptr;
    int32_t* labels = nullptr;     // of these two likewise
    Presence* presence = nullptr;  // (batch, labels)
    std::vector<uint32_t> indices;
    std::vector<uint8_t> substituted;
    Batch batch;
    int remaining = 0;         // samples that are not prepared yet
    std::exception_ptr error;  // what the first bad sample of the batch threw
    int error_at = 0;
  };

  Slot make_slot() const;
  Slot& slot_of(int64_t step) { return slots_[step % slots_.size()]; }
  void work(std::stop_token stop);
  void open_step();
  void prepare_sample(Slot& slot, int i);
  bool try_sample(Slot& slot, int i, uint32_t index, const RandomKey& key);
  void place(Slot& slot, int i, const Image& image, uint32_t index) const;
  bool known_bad(uint32_t index) const;

  const Dataset& dataset_;
  const std::variant<Prepare, PrepareRecord> prepare_;
  const LoaderOptions options_;
  const int64_t steps_;
  size_t image_bytes_ = 0;
  double wait_seconds_ = 0;

  // Only start() changes these, while no thread is at work.
  uint32_t epoch_ = 0;
  int64_t position_ = 0;    // where the epoch was entered
  int64_t first_step_ = 0;  // which step that is
  std::vector<uint32_t> order_;

  // Guards what follows and the slots' counters and errors. The samples of a slot belong to the
  // threads until `remaining` is 0, then to the consumer.
  mutable std::mutex mutex_;
  std::condition_variable_any work_;  // there are samples to take, or a step may be opened
  std::condition_variable ready_;     // a batch is complete, or no thread is busy
  std::vector<Slot> slots_;
  int64_t given_ = 0;                    // steps that next() returned
  int64_t opened_ = 0;                   // steps whose samples threads take or have taken
  int64_t end_ = 0;                      // steps to open
  int left_ = 0;                         // samples of the step opened last that no thread has taken
  std::set<int64_t> busy_;               // positions in the epoch of the samples being prepared
  std::map<uint32_t, std::string> bad_;  // the reason for each bad sample

  std::vector<std::jthread> threads_;  // last, so that they end before anything else is destroyed
};

}  // namespace engine

#include "tools/scale/feed.h"

#include <memory>

#include "engine/error.h"
#include "io/data/sample.h"
#include "tools/score/evaluation.h"

namespace engine {
namespace {

// Whole batches without an end: an epoch's ragged last one is left out.
class EndlessLoader {
 public:
  EndlessLoader(const Dataset& data, const Preprocess& preprocess, const LoaderOptions& options)
      : batch_(options.batch),
        loader_(data, training_input(data, preprocess, preset(Augment::light), false), options) {
    loader_.start(epoch_);
  }

  HostBatch next() {
    const Batch* batch = loader_.next();
    if (!batch || batch->count < batch_) {
      loader_.start(++epoch_);
      batch = loader_.next();
    }
    return {.images = batch->images, .labels = batch->labels, .count = batch->count};
  }

 private:
  int batch_;
  uint32_t epoch_ = 0;
  Loader loader_;
};

}  // namespace

MakeFeed loader_feed(const Dataset& data, const Preprocess& preprocess, const StepBench& bench,
                     int threads) {
  return [&data, preprocess, bench, threads](Backend& backend, const Communicator& communicator) {
    const int batch = batch_of(bench, communicator.rank, communicator.ranks());
    require(data.samples.size() >= static_cast<size_t>(batch), Failure::data,
            "--data: {} images are less than a batch of {}", data.samples.size(), batch);
    const auto loader =
        std::make_shared<EndlessLoader>(data, preprocess,
                                        LoaderOptions{.width = preprocess.crop,
                                                      .height = preprocess.crop,
                                                      .channels = preprocess.channels,
                                                      .batch = batch,
                                                      .threads = threads,
                                                      .ahead = 3,
                                                      .seed = uint64_t(communicator.rank) + 1,
                                                      .memory = batch_memory(backend)});
    return Feed([loader] { return loader->next(); });
  };
}

}  // namespace engine

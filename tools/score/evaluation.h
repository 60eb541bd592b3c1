// Runs a data set through a session in evaluation mode, each sample once, over any number of ranks.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "engine/measures/metrics.h"
#include "engine/session.h"
#include "io/data/loader.h"
#include "tools/machine/device.h"
#include "tools/score/model_file.h"

namespace engine {

// Shared by the ranks of a process: each fills the rows of its samples.
struct EvaluationResult {
  std::vector<float> logits;     // (samples, classes), in the order of the data set
  std::vector<uint8_t> counted;  // 0: a stand-in for an image that could not be read
};

// The programs that an evaluation of `samples` images needs.
std::vector<ProgramSpec> programs_for(int64_t samples, int batch, Share share, Mode mode);

struct InferenceOptions {
  int batch = 1;  // images of this rank and step
  OnBadImage on_bad_image = OnBadImage::error;
  bool features = false;  // as SessionOptions::features
};

// What eval and predict run: a session that holds the weights of a file, and a loader of images.
class Inference {
 public:
  // `data` must outlive it.
  Inference(const ModelFile& file, const Dataset& data, const Preprocess& preprocess,
            const DeviceOptions& device, int batch, OnBadImage on_bad_image = OnBadImage::error);
  // Rank `rank` of several, with its share of every step. They exchange nothing: each has a session
  // of its own, in a world of one.
  Inference(const ModelFile& file, const Dataset& data, const Preprocess& preprocess,
            const DeviceOptions& device, const Ranks& ranks, int rank,
            const InferenceOptions& options);
  Session& session() { return session_; }
  Loader& loader() { return loader_; }

 private:
  std::unique_ptr<Backend> backend_;
  Session session_;
  Loader loader_;
};

// The images that any rank's loader could not read, each once, in the order of the data set. Every
// rank calls it, and gets them.
std::vector<BadImage> bad_images_of_all(const Communicator& communicator, const Loader& loader,
                                        const Dataset& data);

// Names the images of a part that could not be read, and says how many of how many they are.
void say_skipped(std::string_view part, const std::vector<BadImage>& bad, size_t images);

// Pinned memory for a loader; the backend must outlive it.
HostAllocator batch_memory(Backend& backend);

// Rows of the results, by position in the data set: `count` from `first` on.
struct EvaluatedRows {
  int64_t first = 0, count = 0;
};

// Gives every process the rows that ranks of the others have filled; `rows` are this rank's.
void share_rows(const Communicator& communicator, int classes,
                const std::vector<EvaluatedRows>& rows, EvaluationResult& result);

// Throws Error(diverged) where a logit (count, classes) of the batch is not finite. It names the
// images, and the first layer whose output is not finite, for which the batch is evaluated once
// more.
void require_finite_logits(Session& session, const Batch& batch, std::span<const float> logits,
                           const Dataset& data);

// Every rank calls it with a sized result, the same within a process; it returns when all ranks of
// all processes have filled it. `data` is the loader's. Throws Error(diverged) as
// require_finite_logits().
// `progress(images, seconds waited for data)` is called after each batch.
template <class Progress>
void evaluate(Session& session, Loader& loader, const Dataset& data,
              const Communicator& communicator, EvaluationResult& result, Progress progress) {
  const int classes = session.graph().classes();
  loader.start(0);
  double waited = loader.wait_seconds();
  std::vector<EvaluatedRows> rows;
  while (const Batch* batch = loader.next()) {
    if (batch->count > 0) {
      const std::vector<float> logits = session.evaluate({.images = batch->images,
                                                          .labels = batch->labels,
                                                          .count = batch->count,
                                                          .records = batch->records},
                                                         {});
      require_finite_logits(session, *batch, logits, data);
      std::copy(logits.begin(), logits.end(), result.logits.begin() + batch->first * classes);
      for (int i = 0; i < batch->count; ++i)
        result.counted[batch->first + i] = !batch->substituted[i];
      rows.push_back({batch->first, batch->count});
    }
    progress(batch->total, loader.wait_seconds() - waited);
    waited = loader.wait_seconds();
  }
  communicator.group->barrier(communicator.rank);
  share_rows(communicator, classes, rows, result);
}

// The logits and labels of the samples that count.
struct CountedSamples {
  std::vector<float> logits;
  std::vector<int32_t> labels;
};
CountedSamples counted_samples(const EvaluationResult& result, const Dataset& data);

// The same of several labels.
struct CountedLabels {
  std::vector<float> logits;       // (samples, labels)
  std::vector<Presence> presence;  // (samples, labels)
};
CountedLabels counted_labels(const EvaluationResult& result, const Dataset& data);

// The metrics of the samples that count; of several labels epoch_metrics_of_labels().
Metrics metrics_of(const EvaluationResult& result, const Dataset& data);

}  // namespace engine

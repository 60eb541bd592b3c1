// The training steps of one rank: batches from the loader to the session, and results back. An
// update is enqueued while those before it still compute; their results are counted when they
// arrive.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "engine/communicator.h"
#include "engine/session.h"
#include "engine/watchdog.h"
#include "io/data/loader.h"
#include "io/data/mix.h"
#include "tools/train/checkpoint.h"
#include "tools/train/divergence.h"
#include "tools/train/reporter.h"
#include "tools/train/test_fault.h"
#include "tools/train/train_config.h"

namespace engine {

class StepRunner {
 public:
  // What an update took: images of all ranks, and seconds of waiting for this rank's.
  struct Taken {
    int64_t images = 0;
    double waited = 0;
  };

  // Steps advance `at`: its steps when they are enqueued, its sums of losses when results are
  // counted. `started` is set with the first result of an update.
  StepRunner(const TrainConfig& config, const Communicator& communicator, TrainPosition& at,
             Reporter& reporter, Activity& activity, std::atomic<bool>& started);
  ~StepRunner() { release(); }
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  // Works with these from now on, for images with sides of `image_size`; nothing may be pending.
  // The loader's data set must outlive it.
  void use(std::unique_ptr<Session> session, std::unique_ptr<Loader> loader, const Dataset& data,
           int image_size);
  void release();  // frees both
  Session& session() const { return *session_; }
  Loader& loader() const { return *loader_; }

  // One update of `accumulate` batches, or of what the epoch has left; nothing at its end.
  std::optional<Taken> step(double rate);

  // Counts the results that are there, or waits for all. What is not finite is divergence() then:
  // a loss, a gradient, or with the loss scale of fp16 too many overflows in a row.
  void drain(bool wait);
  void forgive_overflows() { overflows_ = 0; }
  const std::optional<Divergence>& divergence() const { return divergence_; }
  // Results that were not counted, because the loss was not finite.
  int64_t uncounted() const { return uncounted_; }
  // Takes the update of `met` again, looking at every result, and fills in what this rank finds,
  // with its images. Nothing may be pending; no update can follow. Every rank calls it.
  Divergence replay(Divergence met);

  // Gives every rank the others' sums. Each goes on with its own, so that meeting more often
  // changes no bit.
  void gather_losses();

 private:
  struct Part {
    const Batch* batch;
    std::vector<Mix> mixes;
    double weight;  // of its targets
  };
  struct Pending {
    uint64_t step;
    bool last;               // of its update; else a share whose gradients are accumulated
    double weight, divisor;  // of this rank's targets; of all in the update
    Divergence place;        // of the update: what would be said of it
  };

  std::vector<Part> take_parts();
  std::vector<Mix> mixes_of(const Batch& batch) const;
  double divisor_of(const std::vector<Part>& parts);
  void enqueue(const Part& part, bool last, double divisor, const Divergence& place);
  Inspection inspect(const Part& part, bool last, double divisor, const Divergence& place);
  HostBatch host_batch(const Part& part) const;
  StepInput input(const Part& part, double divisor, double rate) const;
  std::vector<std::string> images_of(const Part& part) const;
  bool tolerates_overflows() const;  // of fp16's loss scale
  void judge(const Pending& pending, const StepResult& result);
  void count(const Pending& pending);

  const TrainConfig& config_;
  Communicator communicator_;
  TrainPosition& at_;
  Reporter& reporter_;
  Activity& activity_;
  std::atomic<bool>& started_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Loader> loader_;
  const Dataset* data_ = nullptr;  // of the loader
  int image_size_ = 0;
  std::deque<Pending> pending_;
  int overflows_ = 0;       // in a row
  double update_loss_ = 0;  // of the update whose results are arriving, as in `at_.loss_sums`
  int64_t uncounted_ = 0;
  std::optional<Divergence> divergence_;  // the first
};

}  // namespace engine

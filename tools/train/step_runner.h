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
  void use(std::unique_ptr<Session> session, std::unique_ptr<Loader> loader, int image_size);
  void release();  // frees both
  Session& session() const { return *session_; }
  Loader& loader() const { return *loader_; }

  // One update of `accumulate` batches, or of what the epoch has left; nothing at its end.
  std::optional<Taken> step(double rate);

  // Counts the results that are there, or waits for all. Throws Error(diverged) where a loss is not
  // finite, or after too many overflows in a row.
  void drain(bool wait);
  void forgive_overflows() { overflows_ = 0; }

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
    bool update;             // else a share whose gradients are accumulated
    double weight, divisor;  // of this rank's targets; of all in the update
    double rate;
  };

  std::vector<Part> take_parts();
  std::vector<Mix> mixes_of(const Batch& batch) const;
  void enqueue(const Part& part, bool update, double divisor, double rate);
  void count(const Pending& pending);

  const TrainConfig& config_;
  Communicator communicator_;
  TrainPosition& at_;
  Reporter& reporter_;
  Activity& activity_;
  std::atomic<bool>& started_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Loader> loader_;
  int image_size_ = 0;
  std::deque<Pending> pending_;
  int overflows_ = 0;  // in a row
};

}  // namespace engine

// The training loop: epochs, validation, schedule, checkpoints. There is one Trainer per rank, each
// on its own thread; rank 0 also keeps the run directory. trainer.cpp trains, trainer_epoch_end.cpp
// validates and saves weights, trainer_state.cpp saves and restores, trainer_lr_find.cpp looks for
// a learning rate.
#pragma once

#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "engine/schedule.h"
#include "engine/session.h"
#include "io/data/dataset.h"
#include "io/data/loader.h"
#include "tools/train/algorithm_cache.h"
#include "tools/train/reporter.h"
#include "tools/train/step_runner.h"
#include "tools/train/train_shared.h"

namespace engine {

class Trainer {
 public:
  Trainer(TrainShared& shared, BackendKind kind, const BackendOptions& options);
  ~Trainer() { activity_.set(Doing::ended); }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Returns when training is done; throws Error(preempted) after a request to stop, with everything
  // saved.
  void run();
  // Looks for a learning rate instead (LrFind): the loss while the rate rises over at most `steps`
  // steps, to lr_find.csv in the run directory.
  void lr_find(int steps);

 private:
  // leave: saved, to be resumed; end: time is up; explain: something is not finite.
  enum class Wish : uint8_t { go_on, leave, end, explain };
  struct Saved {
    int epoch;
    int64_t step;
    std::string digest;
  };

  bool leads() const { return communicator_.rank == 0; }
  Session& session() const { return runner_.session(); }
  double seconds() const;
  int64_t batch_of_all() const { return int64_t{config_.batch} * communicator_.ranks(); }
  int64_t updates_per_epoch() const;

  std::optional<AlgorithmCache> algorithm_cache() const;

  // ---- what depends on the image size
  void build();
  bool packed_on_device() const { return shared_.cache.kind == CacheKind::gpu; }
  std::unique_ptr<Loader> training_loader();
  std::unique_ptr<Loader> evaluation_loader(const Dataset& data);
  void change_size();
  void change_rule();  // after --freeze-epochs

  // ---- the loop
  bool over() const;       // nothing is left to train
  bool cut_short() const;  // by steps or time
  void train_epoch();
  int64_t steps_after(int64_t left) const;
  bool train_step(double rate);
  Wish wish();
  // Waits for all results and shares the sums of losses. Throws Error(diverged) on all ranks if one
  // has met something that is not finite.
  void settle();
  [[noreturn]] void explain_divergence();
  // Throws Error(diverged), which names the tensor, where a value is not finite.
  void require_finite(const std::map<std::string, Tensor>& tensors) const;

  // ---- the end of an epoch
  struct Validation {
    Metrics metrics;                // all of them on rank 0 alone
    std::optional<double> watched;  // what --watch names
  };
  void finish_epoch();
  Validation validate();
  void share_statistics();
  // Swaps weights and averages, where there are averages: these are validated and kept.
  void exchange_averages();
  // Fills shared_.evaluation with the logits of every sample. A request to stop calls `stop` on
  // every rank.
  void name_bad_images(std::string_view part, const Loader& loader, const Dataset& data);
  void evaluate_all(const char* title, Loader& loader, const Dataset& data,
                    const std::function<void()>& stop);
  void judge(const Validation& validation, bool whole);
  std::function<void()> weight_writer(const std::map<std::string, Tensor>& trained);
  void score_best();

  // ---- state
  void load_state();
  void prepare(const std::string& what, double since);
  void restore(const Checkpoint& checkpoint);
  std::map<std::string, Tensor> averages() const;
  // Begins to save, beside what follows. finish_saving() waits and reports, or throws what
  // prevented it; report_saved() does so if saving is done.
  void save(bool weights);
  void finish_saving();
  void report_saved();
  [[noreturn]] void leave(const std::string& when);

  TrainShared& shared_;
  const TrainConfig& config_;
  const Watch watch_;
  Communicator communicator_;
  std::unique_ptr<Backend> backend_;
  Preprocess preprocess_;  // at the size of the epoch under way
  TrainPosition at_;
  Schedule schedule_;
  Reporter reporter_;
  Activity& activity_;
  StepRunner runner_;
  std::unique_ptr<Loader> validation_loader_;
  bool head_alone_ = false;  // by the session's rules
  bool time_is_up_ = false;
  std::future<Saved> saving_;  // beside training; at most one
  double began_;
};

}  // namespace engine

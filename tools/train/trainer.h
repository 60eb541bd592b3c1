// The training loop: epochs, validation, schedule, checkpoints. One Trainer per rank, each on its own thread; rank 0
// also keeps the run directory. trainer.cpp trains, trainer_epoch_end.cpp validates, reports and saves weights,
// trainer_state.cpp saves and restores, trainer_rate_test.cpp looks for a learning rate.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/schedule.h"
#include "engine/session.h"
#include "io/data/dataset.h"
#include "io/data/loader.h"
#include "io/images/augment.h"
#include "tools/cli/progress.h"
#include "tools/data/data_options.h"
#include "tools/machine/monitor.h"
#include "tools/score/evaluation.h"
#include "tools/score/model_file.h"
#include "tools/train/checkpoint.h"
#include "tools/train/early_stop.h"
#include "tools/train/parameter_rules.h"
#include "tools/train/run_directory.h"

namespace engine {

// The side of the images grows over the run, in four stages of equal length (EfficientNetV2, algorithm 1), in multiples
// of 32. Each change rebuilds the session, with the state moved over: as long as the start of a run.
struct SizeGrowth {
  int first = 0, last = 0;  // 0: no growth
};
// In an epoch from 0; `size` where nothing grows.
int image_size(const SizeGrowth& growth, int size, int epoch, int epochs);

struct TrainConfig {
  std::string model;
  Preprocess preprocess;
  AugmentConfig augment = preset(Augment::light);
  bool fast_decode = false;
  OnBadImage on_bad_image = OnBadImage::error;
  bool balanced = false;  // the sampler
  int epochs = 10, batch = 64;
  int accumulate = 1;                           // batches of each rank in one update
  int64_t max_steps = 0, checkpoint_every = 0;  // 0: no limit; only after epochs
  double max_minutes = 0;                       // of training, interruptions left out; 0: no limit
  int keep = 2, log_every = 50;                 // checkpoints; updates between log events
  uint64_t seed = 0;
  ScheduleConfig schedule;
  EarlyStopConfig early_stop;
  SizeGrowth growth;
  OptimizerConfig optimizer;
  RuleOptions rules;
  double ema_decay = 0;  // validated and kept as weights are the averages; 0: none
  bool frozen_norms = false;
  LossConfig loss;
  Precision precision = Precision::fp32;
  ConvForm conv = ConvForm::automatic;
  bool deterministic = false;
  size_t workspace = size_t{256} << 20;
  float loss_scale = 65536;
  int workers = 1;
};

// What the ranks of a run share.
struct TrainShared {
  TrainConfig config;
  TrainingData data;
  std::optional<ModelFile> weights;          // to start from
  std::optional<Checkpoint> checkpoint;      // to resume from
  std::map<std::string, std::string> facts;  // of every checkpoint, beside the algorithms
  RunDirectory run;
  Cache cache;
  Monitor monitor;
  EvaluationResult evaluation;
  std::atomic<bool> started = false;  // the first step is done
};

class Trainer {
 public:
  Trainer(TrainShared& shared, BackendKind kind, const BackendOptions& options);

  // Returns when training is done; throws Error(preempted) after a request to stop, with everything saved.
  void run();
  // The range test (Smith, 2015) instead: the loss while the rate rises from 1e-7 to 10 over at most `steps` steps, to
  // lr_find.csv in the run directory.
  void find_rate(int steps);

 private:
  enum class Wish : uint8_t { go_on, leave, end };  // leave: saved, to be resumed; end: time is up
  struct Pending {
    uint64_t step;
    bool update;             // else a share whose gradients are accumulated
    double weight, divisor;  // of this rank's targets; of all in the update
    double rate;
  };
  struct Saved {
    int epoch;
    int64_t step;
    std::string digest;
  };

  void begin_progress(const std::string& title, int64_t steps, int64_t first_step = 0);
  bool leads() const { return communicator_.rank == 0; }
  void say(const std::string& line);
  double seconds() const;

  // ---- what depends on the image size
  void build();
  bool packed_on_device() const { return shared_.cache.kind == CacheKind::gpu; }
  std::unique_ptr<Loader> evaluation_loader(const Dataset& data);
  void change_size();

  // ---- the loop
  bool over() const;       // nothing is left to train
  bool cut_short() const;  // by steps or time
  void train_epoch();
  bool train_step(double rate);
  std::vector<Mix> draw_mixes_of(const Batch& batch) const;
  Wish wish();
  void drain(bool wait);
  void count_result(const Pending& pending);
  bool try_drain();
  void gather_losses();

  // ---- the end of an epoch
  void finish_epoch(double rate, double wait_share);
  Metrics validate();
  void share_statistics();
  void exchange_averages();  // validation and weight files see them, where there are any
  // Fills shared_.evaluation with the logits of every sample. A request to stop calls `stop` on every rank.
  void evaluate_all(const char* title, Loader& loader, const Dataset& data,
                    const std::function<void()>& stop);
  void judge(const Metrics& metrics, bool whole);
  void log_epoch(const Metrics& metrics, double train_loss, double learning_rate, double rate,
                 double wait_share, const MachineUse& use);
  std::function<void()> weight_writer(const std::map<std::string, Tensor>& trained);
  void score_best();

  // ---- state
  void load_state();
  void prepare(const std::string& what, double since);
  void restore(const Checkpoint& checkpoint);
  std::map<std::string, Tensor> averages() const;
  // Begins to save, beside what follows. finish_saving() waits and reports, or throws what prevented it.
  void save(bool weights);
  void finish_saving();
  void report_saved();  // if it is done
  [[noreturn]] void leave(const std::string& when);

  TrainShared& shared_;
  const TrainConfig& config_;
  Communicator communicator_;
  std::unique_ptr<Backend> backend_;
  Preprocess preprocess_;  // at the size of the epoch under way
  std::unique_ptr<Session> session_;
  std::unique_ptr<Loader> train_loader_, validation_loader_;
  TrainPosition at_;
  Schedule schedule_;
  bool time_is_up_ = false;
  std::deque<Pending> pending_;
  std::unique_ptr<Progress> progress_;  // of what is under way; only where leads()
  std::future<Saved> saving_;           // beside training; at most one
  int overflows_ = 0;                   // in a row
  std::set<std::string> named_bad_images_;
  std::string named_damage_;  // of the cache
  double began_;
};

}  // namespace engine

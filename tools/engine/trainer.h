// The training loop: epochs, validation, schedule, checkpoints. One Trainer per rank, each on its own thread; rank 0
// also keeps the run directory.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "engine/schedule.h"
#include "engine/session.h"
#include "io/augment.h"
#include "io/dataset.h"
#include "io/loader.h"
#include "tools/engine/data_options.h"
#include "tools/engine/evaluation.h"
#include "tools/engine/model_file.h"
#include "tools/engine/monitor.h"
#include "tools/engine/run_directory.h"

namespace engine {

struct TrainConfig {
  std::string model;
  Preprocess preprocess;
  AugmentConfig augment = preset(Augment::light);
  bool fast_decode = false;
  OnBadImage on_bad_image = OnBadImage::error;
  int epochs = 10, batch = 64;
  int64_t max_steps = 0, checkpoint_every = 0;  // 0: no limit; only after epochs
  uint64_t seed = 0;
  ScheduleConfig schedule;
  OptimizerConfig optimizer;
  Precision precision = Precision::fp32;
  ConvForm conv = ConvForm::automatic;
  bool deterministic = false;
  size_t workspace = size_t{256} << 20;
  float loss_scale = 65536;
  int workers = 1;
};

// Where training stands; what a checkpoint holds beside tensors.
struct TrainPosition {
  int epoch = 0;           // epochs done
  int64_t epoch_step = 0;  // steps done in the epoch under way
  int64_t step = 0;        // steps done in all
  double loss_sum = 0;     // over the samples of the epoch under way, all ranks
  int64_t samples = 0;
  ScheduleState schedule;
  int best_epoch = 0;  // from 1; 0: none yet
  double best_top1 = -1, best_loss = 0;
  double seconds = 0;  // of training, all interruptions left out
};

// What the ranks of a run share.
struct TrainShared {
  TrainConfig config;
  TrainingData data;
  std::optional<ModelFile> weights;      // to start from
  std::optional<TensorFile> checkpoint;  // to resume from
  RunDirectory run;
  Cache cache;
  Monitor monitor;
  EvaluationResult evaluation;
  std::atomic<bool> started = false;  // the first step is done
  std::atomic<int> signal = 0;        // that asked for the end, by its number
};

class Trainer {
 public:
  Trainer(TrainShared& shared, BackendKind kind, const BackendOptions& options);

  // Returns when training is done; throws Error(preempted) after a signal, with everything saved.
  void run();
  const TrainPosition& position() const { return at_; }

 private:
  struct Pending {
    uint64_t step;
    int count, total;
  };

  bool leads() const { return communicator_.rank == 0; }
  void load_state();
  void restore(const TensorFile& checkpoint);
  void train_epoch();
  void drain(bool wait, class Progress* progress);
  void count_result(const Pending& pending, class Progress* progress);
  bool finished() const { return config_.max_steps > 0 && at_.step >= config_.max_steps; }
  bool asked_to_stop();
  // Fills shared_.evaluation with the logits of every sample.
  void evaluate_all(const char* title, Loader& loader, const Dataset& data);
  void finish_epoch(double rate, double wait_share);
  void score_best();
  void gather_losses();
  void save_checkpoint();
  double seconds() const;
  void say(const std::string& line) const;

  TrainShared& shared_;
  const TrainConfig& config_;
  Communicator communicator_;
  std::unique_ptr<Backend> backend_;
  Session session_;
  Loader train_loader_, validation_loader_;
  Schedule schedule_;
  TrainPosition at_;
  double own_loss_sum_ = 0;  // this rank's share, since the last meeting
  std::deque<Pending> pending_;
  int overflows_ = 0;  // in a row
  std::set<std::string> named_bad_images_;
  double began_;
};

inline constexpr char kCheckpoint[] =
    "checkpoint.safetensors";  // in the run directory: all that resume needs

}  // namespace engine

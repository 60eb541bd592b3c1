// Checkpoints: everything a run needs to go on as if it had not been interrupted, one file per save in RUN/ckpt, written
// atomically, checked by its SHA-256 when it is read.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/schedule.h"
#include "engine/tensor.h"

namespace engine {

struct BestEpoch {
  int epoch = 0;  // from 1; 0: none yet
  int64_t step = 0;
  int size = 0;  // of the images; figures of different sizes do not compare
  double top1 = -1, loss = 0;
};

struct EarlyStopState {
  double best = 0;
  int size = 0;        // of the images, with which it was reached; 0: none yet
  int bad_epochs = 0;  // in a row, without improvement
};

// Where training stands, in numbers.
struct TrainPosition {
  int epoch = 0;  // epochs done, with their validation
  int64_t epoch_step =
      0;  // batches done in the epoch under way; all of them: only its validation is left
  int64_t step = 0;               // updates attempted in all
  int64_t validated = -1;         // the step after which the weights were validated last
  std::vector<double> loss_sums;  // per rank, over its samples of the epoch under way
  double weight = 0;              // of the targets of all ranks in the epoch under way
  ScheduleState schedule;
  EarlyStopState early_stop;
  BestEpoch best;
  double seconds = 0;  // of training, all interruptions left out; no part of the digest
};

struct Checkpoint {
  TrainPosition at;
  std::map<std::string, Tensor> model, optimizer,
      ema;  // as the session gives them; ema may be empty
  // Model, classes, what must be the same in a run that goes on, algorithms: texts by name.
  std::map<std::string, std::string> facts;
  std::string digest;  // state_digest() of the above, as read_checkpoint() found it
};

// SHA-256 of tensors and position: equal if and only if two runs stand at the same point with the same bits.
std::string state_digest(const Checkpoint& checkpoint);

void write_checkpoint(const std::filesystem::path& path, Checkpoint checkpoint,
                      const std::string& state_digest);
// Throws Error(weights) where the file is damaged or none of ours.
Checkpoint read_checkpoint(const std::filesystem::path& path);

// RUN/ckpt/step_NNNNNNNN.safetensors.
class CheckpointFolder {
 public:
  // Keeps the last `keep` files.
  CheckpointFolder(const std::filesystem::path& run, int keep);

  // Older files go when this one is safe. Returns its path. On failure, an Error that says which checkpoint stands.
  std::filesystem::path write(Checkpoint checkpoint, const std::string& state_digest) const;

  // The newest that can be read; each damaged one is named to `say` and set aside as FILE.damaged. Nothing if there
  // is no file, an Error(weights) if all are damaged.
  std::optional<Checkpoint> newest(const std::function<void(const std::string&)>& say) const;
  void remove_leftovers() const;  // temporaries of a process that was killed while it wrote

 private:
  std::vector<std::filesystem::path> files() const;  // oldest first
  void remove_old(const std::filesystem::path& newest) const;

  std::filesystem::path path_;
  int keep_;
};

}  // namespace engine

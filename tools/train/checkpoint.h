// Checkpoints: everything a run needs to go on as if it had not been interrupted. Each save is one
// file in RUN/ckpt, written atomically and checked by its SHA-256 when it is read.
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
#include "tools/train/early_stop.h"
#include "tools/train/run_identity.h"

namespace engine {

// Where training stands, in numbers.
struct TrainPosition {
  int epoch = 0;  // epochs done, with their validation
  // Samples that the ranks together have taken in the epoch under way. Where that is all of them,
  // only its validation is left.
  int64_t position = 0;
  int64_t step = 0;  // updates attempted in all
  // The same as the schedule counts: where the batches have changed on the way, as many as those of
  // now would have taken to get here.
  int64_t scheduled = 0;
  int64_t validated = -1;         // the step after which the weights were validated last
  std::vector<double> loss_sums;  // per rank, over its samples of the epoch under way
  double weight = 0;              // of the targets of all ranks in the epoch under way
  ScheduleState schedule;
  EarlyStopState early_stop;
  BestEpoch best;
  // What the figures of the last two and of plateau are, as to_string(Watch); empty in checkpoints
  // of former versions.
  std::string watch, plateau;
  double seconds = 0;  // of training, without interruptions; no part of the digest
};

struct Checkpoint {
  TrainPosition at;
  // As the session gives them; `ema` may be empty.
  std::map<std::string, Tensor> model, optimizer, ema;
  RunIdentity identity;
  std::map<std::string, std::string> algorithms;  // of Backend::algorithms()
  // As read_checkpoint() found them: state_digest() of position and tensors, and the file.
  std::string digest;
  std::filesystem::path file;
};

// SHA-256 of tensors and position: equal if and only if two runs stand at the same point with the
// same bits.
std::string state_digest(const Checkpoint& checkpoint);

void write_checkpoint(const std::filesystem::path& path, Checkpoint checkpoint,
                      const std::string& state_digest);
// Throws Error(weights) where the file is damaged or is no checkpoint.
Checkpoint read_checkpoint(const std::filesystem::path& path);

// RUN/ckpt/step_NNNNNNNN.safetensors.
class CheckpointFolder {
 public:
  // Keeps the last `keep` files.
  CheckpointFolder(const std::filesystem::path& run, int keep);

  // Removes older files when this one is safe, and returns its path. On failure, throws an Error
  // that says which checkpoint stands.
  std::filesystem::path write(Checkpoint checkpoint, const std::string& state_digest) const;

  // The newest checkpoint that can be read; each damaged one is named to `say` and set aside as
  // FILE.damaged. Nothing if there is no file, an Error(weights) if all are damaged.
  std::optional<Checkpoint> newest(const std::function<void(const std::string&)>& say) const;
  // Removes the temporary files of a process that was killed while it wrote.
  void remove_leftovers() const;

 private:
  std::vector<std::filesystem::path> files() const;  // oldest first
  void remove_old(const std::filesystem::path& newest) const;

  std::filesystem::path path_;
  int keep_;
};

}  // namespace engine

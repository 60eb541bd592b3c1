// Sums of gradients over the ranks by NCCL, on a stream beside the one that computes them, and the
// rows of norms that ranks share. All go through one communicator and one stream, in the order in
// which they are enqueued, which is the same on every rank: two communicators with collectives
// under way at once may wait for each other for ever.
#pragma once

#include <cstdint>

#include "engine/communicator.h"
#include "engine/cuda/handles.h"
#include "engine/precision.h"
#include "kernels/operand.h"
#include "kernels/sync_norms.h"

namespace engine::cuda {

// How gradients travel: as they are, or cast to 16 bits and back. The scratch holds a bucket.
struct BucketFormat {
  Precision precision = Precision::fp32;
  void* scratch = nullptr;
};

class GradientSum {
 public:
  explicit GradientSum(const Communicator& communicator);  // returns when every rank has come
  ~GradientSum();
  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;

  const Communicator& communicator() const { return communicator_; }

  // In place, after what `stream` holds already and beside what follows; `mark` gets the step's
  // number before and after. Nothing in a world of one.
  void start(float* values, int64_t count, const BucketFormat& format, CollectiveMark* mark,
             const StepParams* params, cudaStream_t stream);
  void join(cudaStream_t stream);  // what follows on `stream` sees the sums
  // Every rank gets the rows of all; its own is in place. What follows on `stream` sees them.
  void gather(const RankRows<float>& rows, cudaStream_t stream);
  int64_t started() const { return started_; }  // collectives so far

  // Before the first collective is launched: then no rank loads or allocates any more.
  void meet();
  bool met() const { return met_; }  // sums may be under way

  // Waits for what the device has before it. Among several ranks that may be a sum that never
  // comes: it throws Error(collective) once a rank gives up.
  void wait(cudaStream_t stream) const;
  void wait(cudaEvent_t event) const;

  // Ends the sums that are under way, whatever they hold then; none may follow. It returns when the
  // graphs that hold sums are gone, which another thread destroys meanwhile.
  void abort() noexcept;

 private:
  template <class T>
  void sum(float* values, int64_t count, T* scratch);
  void meet_before_launch(cudaStream_t stream);

  Communicator communicator_;
  Stream stream_;
  Event ready_, done_, gathered_;
  NcclComm nccl_;
  int64_t started_ = 0;
  bool pending_ = false, met_ = false;
};

}  // namespace engine::cuda

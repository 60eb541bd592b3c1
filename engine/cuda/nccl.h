// Sums of gradients over the ranks by NCCL, on a stream beside the one that computes them.
#pragma once

#include <cstdint>

#include "engine/communicator.h"
#include "engine/cuda/handles.h"
#include "kernels/operand.h"

namespace engine::cuda {

class GradientSum {
 public:
  explicit GradientSum(const Communicator& communicator);  // returns when every rank has come
  ~GradientSum();
  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;

  // In place, after what `stream` holds already and beside what follows; `mark` gets the step's
  // number before and after. Nothing in a world of one.
  void start(float* values, int64_t count, CollectiveMark* mark, const StepParams* params,
             cudaStream_t stream);
  void join(cudaStream_t stream);               // what follows on `stream` sees the sums
  int64_t started() const { return started_; }  // sums so far

  // Before the first collective is launched: then no rank loads or allocates any more.
  void meet();
  bool met() const { return met_; }

  // Waits for what the device has before it. Among several ranks that may be a sum that never
  // comes: it throws Error(collective) once a rank gives up.
  void wait(cudaStream_t stream) const;
  void wait(cudaEvent_t event) const;

  // Ends the sums that are under way, whatever they hold then; none may follow. Graphs that hold
  // sums must be gone: NCCL waits for them.
  void abort() noexcept;

 private:
  Communicator communicator_;
  Stream stream_;
  Event ready_, done_;
  NcclComm nccl_;
  int64_t started_ = 0;
  bool pending_ = false, met_ = false;
};

}  // namespace engine::cuda

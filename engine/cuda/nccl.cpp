#include "engine/cuda/nccl.h"

#include <cstdlib>
#include <exception>
#include <span>

#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

// Of the highest priority, so that a bucket leaves as soon as it is ready.
Stream make_stream() {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  return create<Stream>(cudaStreamCreateWithPriority, cudaStreamNonBlocking, highest);
}

// NCCL would connect its peers in the first collective, which here is captured, and CUDA refuses
// to enable peer access during a capture: all connections are made at once instead.
NcclComm connect(const Communicator& communicator) {
  setenv("NCCL_RUNTIME_CONNECT", "0", 0);
  ncclUniqueId id{};
  if (communicator.rank == 0) check(ncclGetUniqueId(&id));
  communicator.group->broadcast(communicator.rank, std::as_writable_bytes(std::span(&id, 1)));
  return create<NcclComm>(ncclCommInitRank, communicator.ranks(), id, communicator.rank);
}

}  // namespace

GradientSum::GradientSum(const Communicator& communicator)
    : communicator_(communicator),
      stream_(make_stream()),
      ready_(make_event()),
      done_(make_event()) {
  if (communicator_.ranks() > 1) nccl_ = connect(communicator_);
}

// A rank that fails does not wait for its peers.
GradientSum::~GradientSum() {
  if (nccl_ && std::uncaught_exceptions() > 0) ncclCommAbort(nccl_.release());
}

void GradientSum::start(float* values, int64_t count, CollectiveMark* mark,
                        const StepParams* params, cudaStream_t stream) {
  if (!nccl_) return;
  check(cudaEventRecord(ready_.get(), stream));
  check(cudaStreamWaitEvent(stream_.get(), ready_.get(), 0));
  kernels::note_step(&mark->began, params, stream_.get());
  check(ncclAllReduce(values, values, count, ncclFloat, ncclSum, nccl_.get(), stream_.get()));
  kernels::note_step(&mark->ended, params, stream_.get());
  ++started_;
  pending_ = true;
}

void GradientSum::join(cudaStream_t stream) {
  if (!pending_) return;
  check(cudaEventRecord(done_.get(), stream_.get()));
  check(cudaStreamWaitEvent(stream, done_.get(), 0));
  pending_ = false;
}

void GradientSum::meet() {
  if (!nccl_ || met_) return;
  communicator_.group->barrier(communicator_.rank);
  met_ = true;
}

}  // namespace engine::cuda

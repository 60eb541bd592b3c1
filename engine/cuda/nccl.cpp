#include "engine/cuda/nccl.h"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <span>
#include <thread>
#include <type_traits>

#include "engine/cuda/storage.h"
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

// Calls `query` until it says that the device is there; before it sleeps it looks more often.
template <class Query>
void poll(const Group& group, Query query) {
  constexpr int kEager = 200;
  for (int round = 0;; ++round) {
    const cudaError_t state = query();
    if (state != cudaErrorNotReady) return check(state);
    group.check();
    if (round < kEager)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

}  // namespace

GradientSum::GradientSum(const Communicator& communicator)
    : communicator_(communicator),
      stream_(make_stream()),
      ready_(make_event()),
      done_(make_event()),
      gathered_(make_event()) {
  if (communicator_.ranks() > 1) nccl_ = connect(communicator_);
}

// A rank that fails does not wait for its peers.
GradientSum::~GradientSum() {
  if (std::uncaught_exceptions() > 0) abort();
}

void GradientSum::abort() noexcept {
  met_ = false;
  if (nccl_) ncclCommAbort(nccl_.release());
}

void GradientSum::start(float* values, int64_t count, const BucketFormat& format,
                        CollectiveMark* mark, const StepParams* params, cudaStream_t stream) {
  if (communicator_.ranks() == 1) return;
  require(nccl_ != nullptr, Failure::internal, "a sum over ranks after its abort");
  meet_before_launch(stream);
  check(cudaEventRecord(ready_.get(), stream));
  check(cudaStreamWaitEvent(stream_.get(), ready_.get(), 0));
  kernels::note_step(&mark->began, params, stream_.get());
  visit_storage(format.precision,
                [&]<class T>() { sum(values, count, static_cast<T*>(format.scratch)); });
  kernels::note_step(&mark->ended, params, stream_.get());
  ++started_;
  pending_ = true;
}

// What overflows in 16 bits comes back as an infinity, which the norm of the gradients sees.
template <class T>
void GradientSum::sum(float* values, int64_t count, T* scratch) {
  const cudaStream_t s = stream_.get();
  constexpr bool kAsTheyAre = std::is_same_v<T, float>;
  T* travelling = scratch;
  if constexpr (kAsTheyAre)
    travelling = values;
  else
    kernels::Casts<T>::from_float(scratch, values, count, s);
  check(ncclAllReduce(travelling, travelling, count, Storage<T>::sum, ncclSum, nccl_.get(), s));
  if constexpr (!kAsTheyAre) kernels::Casts<T>::to_float(values, scratch, count, s);
}

void GradientSum::gather(const RankRows<float>& rows, cudaStream_t stream) {
  meet_before_launch(stream);
  check(cudaEventRecord(ready_.get(), stream));
  check(cudaStreamWaitEvent(stream_.get(), ready_.get(), 0));
  check(ncclAllGather(rows.row(communicator_.rank), rows.values, rows.length(), ncclFloat,
                      nccl_.get(), stream_.get()));
  check(cudaEventRecord(gathered_.get(), stream_.get()));
  check(cudaStreamWaitEvent(stream, gathered_.get(), 0));
  ++started_;
}

void GradientSum::join(cudaStream_t stream) {
  if (!pending_) return;
  check(cudaEventRecord(done_.get(), stream_.get()));
  check(cudaStreamWaitEvent(stream, done_.get(), 0));
  pending_ = false;
}

// A captured collective is launched later, by whoever launches the graph.
void GradientSum::meet_before_launch(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status));
  if (status == cudaStreamCaptureStatusNone) meet();
}

void GradientSum::meet() {
  if (!nccl_ || met_) return;
  communicator_.group->barrier(communicator_.rank);
  met_ = true;
}

void GradientSum::wait(cudaStream_t stream) const {
  if (!nccl_) return check(cudaStreamSynchronize(stream));
  poll(*communicator_.group, [=] { return cudaStreamQuery(stream); });
}

void GradientSum::wait(cudaEvent_t event) const {
  if (!nccl_) return check(cudaEventSynchronize(event));
  poll(*communicator_.group, [=] { return cudaEventQuery(event); });
}

}  // namespace engine::cuda

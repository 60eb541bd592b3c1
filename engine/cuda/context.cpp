#include "engine/cuda/context.h"

#include "engine/error.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

int select_device(int device) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  require(found == cudaSuccess, Failure::usage, "--device cuda: {}", cudaGetErrorString(found));
  require(device >= 0 && device < count, Failure::usage,
          "--device cuda: GPU {} was asked for, this machine has {}", device, count);
  check(cudaSetDevice(device));
  return device;
}

// Zero once the stream comes to them.
Counters make_counters(cudaStream_t stream) {
  constexpr size_t kBytes = kernels::kMaxGroups * sizeof(unsigned);
  void* memory = nullptr;
  check(cudaMalloc(&memory, kBytes));
  Counters counters(static_cast<unsigned*>(memory));
  check(cudaMemsetAsync(memory, 0, kBytes, stream));
  return counters;
}

}  // namespace

Cuda::Cuda(int device)
    : device(select_device(device)),
      stream(create<Stream>(cudaStreamCreateWithFlags, cudaStreamNonBlocking)),
      copies(create<Stream>(cudaStreamCreateWithFlags, cudaStreamNonBlocking)),
      dnn(create<Cudnn>(cudnnCreate)),
      blaslt(create<CublasLt>(cublasLtCreate)),
      counters(make_counters(stream.get())),
      algorithms(stream.get()) {
  check(cudnnSetStream(dnn.get(), stream.get()));
}

}  // namespace engine::cuda

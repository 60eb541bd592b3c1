// What CUDA, cuDNN, cuBLASLt and NCCL hand out, owned; and check(), which turns their codes into
// Error.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <nccl.h>

#include <memory>
#include <source_location>
#include <string_view>
#include <type_traits>

#include "engine/error.h"

namespace engine::cuda {

using Location = std::source_location;

// "cuDNN: CUDNN_STATUS_BAD_PARAM (conv_library.cpp:81)"
[[noreturn]] inline void fail_at(Failure kind, std::string_view library, std::string_view what,
                                 const Location& at) {
  const std::string_view path = at.file_name();
  fail(kind, "{}: {} ({}:{})", library, what, path.substr(path.rfind('/') + 1), at.line());
}

inline void check(cudaError_t e, const Location& at = Location::current()) {
  if (e != cudaSuccess) [[unlikely]]
    fail_at(e == cudaErrorMemoryAllocation ? Failure::memory : Failure::internal, "CUDA",
            cudaGetErrorString(e), at);
}

inline void check(cudnnStatus_t e, const Location& at = Location::current()) {
  if (e != CUDNN_STATUS_SUCCESS) [[unlikely]]
    fail_at(Failure::internal, "cuDNN", cudnnGetErrorString(e), at);
}

inline void check(cublasStatus_t e, const Location& at = Location::current()) {
  if (e != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail_at(Failure::internal, "cuBLASLt", cublasLtGetStatusString(e), at);
}

inline void check(ncclResult_t e, const Location& at = Location::current()) {
  if (e != ncclSuccess) [[unlikely]]
    fail_at(Failure::collective, "NCCL", ncclGetErrorString(e), at);
}

template <auto Destroy>
struct Destroyer {
  template <class T>
  void operator()(T* handle) const noexcept {
    Destroy(handle);
  }
};
template <class Handle, auto Destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Destroy>>;

using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using CapturedGraph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using Cudnn = Owned<cudnnHandle_t, cudnnDestroy>;
using TensorDescriptor = Owned<cudnnTensorDescriptor_t, cudnnDestroyTensorDescriptor>;
using FilterDescriptor = Owned<cudnnFilterDescriptor_t, cudnnDestroyFilterDescriptor>;
using ConvolutionDescriptor =
    Owned<cudnnConvolutionDescriptor_t, cudnnDestroyConvolutionDescriptor>;
using CublasLt = Owned<cublasLtHandle_t, cublasLtDestroy>;
using MatmulDescriptor = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using MatrixLayout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using MatmulPreference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;
using Counters = Owned<unsigned*, cudaFree>;  // in the memory of the device
using NcclComm = Owned<ncclComm_t, ncclCommDestroy>;

// create<Stream>(cudaStreamCreateWithFlags, cudaStreamNonBlocking)
template <class Owner, class Create, class... Args>
Owner create(Create* create, Args... args) {
  typename Owner::pointer handle = nullptr;
  check(create(&handle, args...));
  return Owner(handle);
}

inline Event make_event(unsigned flags = cudaEventDisableTiming) {
  return create<Event>(cudaEventCreateWithFlags, flags);
}

}  // namespace engine::cuda

// The storage types by name: precision → T in one place, T → what the libraries call it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cudnn.h>
#include <library_types.h>
#include <nccl.h>

#include "engine/error.h"
#include "engine/precision.h"

namespace engine::cuda {

// Calls f.operator()<T>() with the storage type of `precision`.
template <class F>
decltype(auto) visit_storage(Precision precision, F&& f) {
  switch (precision) {
    case Precision::fp32:
    case Precision::tf32: return f.template operator()<float>();
    case Precision::fp16: return f.template operator()<__half>();
    case Precision::bf16: return f.template operator()<__nv_bfloat16>();
    case Precision::fp64: break;
  }
  fail(Failure::usage, "--precision {}: on CUDA there are fp32, tf32, fp16, bf16",
       name_of(precision));
}

template <class T>
struct Storage;
template <>
struct Storage<float> {
  static constexpr cudaDataType_t matrix = CUDA_R_32F;
  static constexpr cudnnDataType_t tensor = CUDNN_DATA_FLOAT;
  static constexpr ncclDataType_t sum = ncclFloat;
};
template <>
struct Storage<__half> {
  static constexpr cudaDataType_t matrix = CUDA_R_16F;
  static constexpr cudnnDataType_t tensor = CUDNN_DATA_HALF;
  static constexpr ncclDataType_t sum = ncclHalf;
};
template <>
struct Storage<__nv_bfloat16> {
  static constexpr cudaDataType_t matrix = CUDA_R_16BF;
  static constexpr cudnnDataType_t tensor = CUDNN_DATA_BFLOAT16;
  static constexpr ncclDataType_t sum = ncclBfloat16;
};

}  // namespace engine::cuda

// The types that a session computes in. Activations and the weight copies are stored in the storage
// type; arithmetic, statistics, masters and optimizer state are float (double for fp64).
#pragma once

#include <string_view>

#include "engine/tensor.h"

namespace engine {

enum class Precision {
  fp64,  // reference backend only
  fp32,  // strict: no TF32, no Winograd, no FFT
  tf32,  // float storage, tensor cores on CUDA
  fp16,  // with dynamic loss scaling
  bf16,
};

Precision parse_precision(std::string_view name);  // throws Error(usage)
std::string_view name_of(Precision precision);
DType storage_type(Precision precision);
inline size_t storage_size(Precision precision) {
  return size_of(storage_type(precision));
}
inline size_t real_size(Precision precision) {
  return precision == Precision::fp64 ? 8 : 4;
}
// The compute-precision copies of the weights are the masters themselves.
inline bool weights_are_masters(Precision precision) {
  return storage_size(precision) == real_size(precision);
}

}  // namespace engine

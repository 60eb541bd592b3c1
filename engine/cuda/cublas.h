// Matrix products by cuBLASLt, planned once and run many times.
#pragma once

#include <cstdint>
#include <functional>

#include "engine/cuda/context.h"

namespace engine::cuda {

// Column-major, as cuBLASLt counts: a row-major (rows, columns) matrix is its transpose.
struct Matrix {
  const void* data = nullptr;
  cudaDataType_t type = CUDA_R_32F;
  int64_t rows = 0, columns = 0;
  int64_t pitch = 0;        // elements from column to column
  bool transposed = false;  // the product reads its transpose
};

// d = a·b + beta·d, with beta 0 or 1; d.data is written.
struct Product {
  Matrix a, b, d;
  float beta = 0;
  Precision precision = Precision::fp32;
};

// Chooses the algorithm; throws Error(internal) where cuBLASLt has none.
std::function<void()> plan_product(Cuda& gpu, const Product& product, const Workspace& workspace);

}  // namespace engine::cuda

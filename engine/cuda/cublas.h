// Matrix products by cuBLASLt, planned once and launched many times.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/cuda/context.h"
#include "engine/launch.h"

namespace engine::cuda {

// Column-major, as cuBLASLt counts: what is row-major (columns, rows) elsewhere.
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

// Chooses the algorithm; throws Error(internal) where cuBLASLt has none. `kernel` names the launch.
Launch plan_product(Cuda& gpu, std::string_view kernel, const Product& product,
                    const Workspace& workspace);

}  // namespace engine::cuda

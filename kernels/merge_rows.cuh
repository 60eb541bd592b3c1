// Rows of sums that thread blocks left, merged in a kernel of its own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace engine::kernels {

// sums (elements,) = Σ over `count` rows (count, elements), in fp64 and in the order of the rows.
// `elements` is a multiple of four.
void merge_rows(float* sums, const float* rows, int count, int64_t elements, cudaStream_t stream);

}  // namespace engine::kernels

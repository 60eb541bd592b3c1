#include "kernels/merge_rows.cuh"

#include "kernels/launch.cuh"

namespace engine::kernels {
namespace {

constexpr int kVectors = 32, kShares = 8, kFloats = 4;

// Each of kShares threads takes every kShares-th row of four elements, and one of them adds what
// all have.
__global__ void __launch_bounds__(kVectors* kShares)
    merge_rows_kernel(float* __restrict__ sums, const float* __restrict__ rows, int count,
                      int64_t elements) {
  __shared__ double shares[kShares][kFloats][kVectors];
  follow();
  const int64_t at = (int64_t{blockIdx.x} * kVectors + threadIdx.x) * kFloats;
  double sum[kFloats] = {};
  if (at < elements) {
#pragma unroll 8
    for (int row = threadIdx.y; row < count; row += kShares) {
      const float4 v = *reinterpret_cast<const float4*>(rows + row * elements + at);
      sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
    }
  }
#pragma unroll
  for (int k = 0; k < kFloats; ++k) shares[threadIdx.y][k][threadIdx.x] = sum[k];
  __syncthreads();
  if (threadIdx.y > 0 || at >= elements) return;
#pragma unroll
  for (int share = 1; share < kShares; ++share)
#pragma unroll
    for (int k = 0; k < kFloats; ++k) sum[k] += shares[share][k][threadIdx.x];
  *reinterpret_cast<float4*>(sums + at) =
      make_float4(static_cast<float>(sum[0]), static_cast<float>(sum[1]),
                  static_cast<float>(sum[2]), static_cast<float>(sum[3]));
}

}  // namespace

void merge_rows(float* sums, const float* rows, int count, int64_t elements, cudaStream_t stream) {
  constexpr int kEach = kVectors * kFloats;
  const auto blocks = static_cast<unsigned>((elements + kEach - 1) / kEach);
  launch(merge_rows_kernel, blocks, dim3(kVectors, kShares), 0, stream, sums, rows, count,
         elements);
}

}  // namespace engine::kernels

// What ranks tell each other of a slice that norms read: a rank's row, and the merge of all rows.
#include "kernels/kernels.h"
#include "kernels/launch.cuh"

namespace engine::kernels {
namespace {

constexpr int kThreads = 128;

unsigned blocks_of(int channels) {
  return (channels + kThreads - 1) / kThreads;
}

__global__ void __launch_bounds__(kThreads)
    pack_kernel(RankRows<float> rows, int rank, const float* __restrict__ first,
                const float* __restrict__ second, int images) {
  follow();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  float* row = rows.row(rank);
  if (c == 0) row[0] = static_cast<float>(images);
  if (c >= rows.channels) return;
  row[1 + c] = first[c];
  row[1 + rows.channels + c] = second[c];
}

__global__ void __launch_bounds__(kThreads)
    merge_kernel(float* first, float* second, RankRows<float> rows, bool statistics) {
  follow();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= rows.channels) return;
  const ChannelPair merged = statistics ? merged_statistics(rows, c) : merged_sums(rows, c);
  first[c] = static_cast<float>(merged.first);
  second[c] = static_cast<float>(merged.second);
}

}  // namespace

void pack_rank_row(const RankRows<float>& rows, int rank, const float* first, const float* second,
                   int images, cudaStream_t stream) {
  launch(pack_kernel, blocks_of(rows.channels), kThreads, 0, stream, rows, rank, first, second,
         images);
}

void merge_rank_statistics(float* mean, float* var, const RankRows<float>& rows,
                           cudaStream_t stream) {
  launch(merge_kernel, blocks_of(rows.channels), kThreads, 0, stream, mean, var, rows, true);
}

void merge_rank_sums(float* k0, float* k1, const RankRows<float>& rows, cudaStream_t stream) {
  launch(merge_kernel, blocks_of(rows.channels), kThreads, 0, stream, k0, k1, rows, false);
}

}  // namespace engine::kernels

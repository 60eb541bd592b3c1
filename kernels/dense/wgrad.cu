// Dense 3 × 3 convolution, the gradient of its weight: dW[o][tap][c] = Σ over pixels of
// dy(pixel)·f(pixel + tap), with dy and f made once for each pixel of a tile. A persistent block
// has a group of channels and holds its share of dW in registers over all of its tiles: a warp has
// the three taps of one column of the window, half of the group's channels, and every other pair of
// cells. Blocks leave their sums as rows, which a small kernel merges in fp64.
// For each pixel it moves, in values of T, C, what the borders of the tiles read again, and for
// each group of channels C' (G), or 2 C' (G, y) behind a norm, of which all but the first come from
// L2. The rows are 4 bytes for each weight and unit, written and read.
#include "kernels/dense/tile.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"

namespace engine::kernels {
namespace {

// M tiles of sixteen outs, N tiles of eight channels for a warp.
template <class T, int M, int N>
struct DenseWgradKernel {
  static constexpr int kGroup = kDenseWgradHalves * N * 8, kChunks = kGroup / kDenseChunk;
  static constexpr int kOutPacks = 2 * M, kOutChunks = dense_up(kOutPacks, kDensePacks);
  using Sums = float[3][M][N][4];

  const GradientView<T>& dy;
  const OperandView<T>& in;
  const DenseCut& cut;
  DenseThread me;
  int kw = me.warp % 3, half = me.warp / 3 % kDenseWgradHalves,
      set = me.warp / (3 * kDenseWgradHalves);
  int c0 = blockIdx.x * kGroup;
  Planes of_tile = tile_planes(cut), of_cells = {dense_cell_plane(cut), dense_cell_pixels(cut)};
  // The shared memory: f and dy of two tiles, y of one, a scale and a shift for each channel.
  Pack<T>* f = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* gradients = f + 2 * kChunks * kDensePacks * of_tile.plane;
  Pack<T>* raw = gradients + 2 * kOutChunks * kDensePacks * of_cells.plane;
  float* floats = reinterpret_cast<float*>(raw + kOutChunks * kDensePacks * of_cells.plane);
  Constants of_in{floats, floats + kGroup};
  Constants of_dy{floats + 2 * kGroup, floats + 2 * kGroup + kOutChunks* kDenseChunk};

  struct Copied {
    Inside f, dy;
  };

  __device__ __forceinline__ void stage_constants() const {
    of_in.stage(kGroup, c0, in.channels, me,
                [&](int c) { return fold_norm(in.norm.channel(c), in.act); });
    of_dy.stage(kOutChunks * kDenseChunk, 0, dy.channels, me, [&](int c) {
      return GradientSource<T>{dy, nullptr}.constants(c);
    });
  }
  __device__ __forceinline__ Pack<T>* f_chunk(int step, int chunk) const {
    return f + (step % 2 * kChunks + chunk) * kDensePacks * of_tile.plane;
  }
  __device__ __forceinline__ Pack<T>* dy_chunk(int step, int chunk) const {
    return gradients + (step % 2 * kOutChunks + chunk) * kDensePacks * of_cells.plane;
  }

  __device__ __forceinline__ Copied copy(int step, int tile) const {
    const DensePlace place = dense_place(cut, tile);
    const int pack = me.index % kDensePacks, c = pack * kPack;
    const int f_chunk_packs = kDensePacks * of_tile.plane;
    const int dy_chunk_packs = kDensePacks * of_cells.plane;
    Pack<T>* const to_f = f_chunk(step, 0) + pack * of_tile.plane;
    Pack<T>* const to_dy = dy_chunk(step, 0) + pack * of_cells.plane;
    Pack<T>* const to_raw = raw + pack * of_cells.plane;
    Copied copied;
    copied.f = copy_pixels(
        of_tile.pixels, me, [&](int at) { return dense_staged(cut, place, at); },
        [&](int at, int pixel) {
#pragma unroll
          for (int i = 0; i < kChunks; ++i)
            copy_pack(to_f + at + i * f_chunk_packs, in.x, in.pitch, in.channels,
                      c0 + c + i * kDenseChunk, pixel);
        });
    copied.dy = copy_pixels(
        of_cells.pixels, me, [&](int at) { return dense_of_cell(cut, place, at); },
        [&](int at, int pixel) {
#pragma unroll
          for (int i = 0; i < kOutChunks; ++i) {
            const int out = c + i * kDenseChunk, to = at + i * dy_chunk_packs;
            copy_pack(to_dy + to, dy.grad, dy.pitch, dy.channels, out, pixel);
            if (dy.normed()) copy_pack(to_raw + to, dy.x, dy.pitch, dy.channels, out, pixel);
          }
        });
    return copied;
  }
  __device__ __forceinline__ void transform(int step, const Copied& copied) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      transform_operand<1>(f_chunk(step, i), of_tile, copied.f, in, of_in, i * kDenseChunk, me);
    if (!dy.normed()) return;
#pragma unroll
    for (int i = 0; i < kOutChunks; ++i)
      transform_gradient<1>(dy_chunk(step, i), raw + i * kDensePacks * of_cells.plane, of_cells,
                            copied.dy, of_dy, i * kDenseChunk, me);
  }

  // sum[kh] += the products of a pair of cells. Three rows of f are held, for the three taps above
  // one another.
  __device__ __forceinline__ void multiply_pair(Sums& sum, int step, int pair) const {
    const int matrix = me.lane / 8;
    const uint32_t of_f = banded::shared_address(f_chunk(step, 0) + half * N * of_tile.plane +
                                                 lane_of_cells(cut, me, 2 * pair) + kw);
    const uint32_t of_y =
        banded::shared_address(dy_chunk(step, 0) + matrix % 2 * of_cells.plane +
                               (2 * pair + matrix / 2) * kDenseRows * kDenseWidth + me.lane % 8);
    constexpr int kPackBytes = sizeof(Pack<T>);
    uint32_t b[3][N][2];
#pragma unroll
    for (int staged = 0; staged < kDenseRows + 2; ++staged) {
#pragma unroll
      for (int j = 0; j < N; j += 2) {
        uint32_t r[4];
        banded::load_transposed(r, of_f + (staged * cut.pitch + j * of_tile.plane) * kPackBytes);
        b[staged % 3][j][0] = r[0], b[staged % 3][j][1] = r[1];
        b[staged % 3][j + 1][0] = r[2], b[staged % 3][j + 1][1] = r[3];
      }
      const int row = staged - 2;
      if (row < 0) continue;
#pragma unroll
      for (int m = 0; m < M; ++m) {
        uint32_t a[4];
        banded::load_transposed(a,
                                of_y + (row * kDenseWidth + 2 * m * of_cells.plane) * kPackBytes);
#pragma unroll
        for (int kh = 0; kh < 3; ++kh)
#pragma unroll
          for (int j = 0; j < N; ++j)
            kernels::multiply<T>(sum[kh][m][j], a[0], a[1], a[2], a[3], b[(row + kh) % 3][j][0],
                                 b[(row + kh) % 3][j][1]);
      }
    }
  }
  // Calls use(value, i, o, c, tap) for the pairs of neighbouring channels that the thread has.
  template <class Use>
  __device__ __forceinline__ void for_pairs(Sums& sum, Use use) const {
#pragma unroll
    for (int kh = 0; kh < 3; ++kh)
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int j = 0; j < N; ++j)
#pragma unroll
          for (int high = 0; high < 2; ++high)
            use(&sum[kh][m][j][2 * high], ((kh * M + m) * N + j) * 2 + high,
                m * 16 + high * 8 + me.g, c0 + (half * N + j) * 8 + 2 * me.t, kh * 3 + kw);
  }

  // row (C', 9, C) = the block's channels of dW. Those of the second set of warps are added to
  // those of the first.
  __device__ __forceinline__ void leave(Sums& sum, float* row) const {
    constexpr int kPairs = 3 * M * N * 2, kWarps = 3 * kDenseWgradHalves;
    float2* const buffer =
        reinterpret_cast<float2*>(dynamic_shared) + me.warp % kWarps * kPairs * kWarp + me.lane;
    if (set == 1)
      for_pairs(sum, [&](const float* pair, int i, int, int, int) {
        buffer[i * kWarp] = make_float2(pair[0], pair[1]);
      });
    __syncthreads();
    if (set == 1) return;
    for_pairs(sum, [&](const float* pair, int i, int o, int c, int tap) {
      if (o >= dy.channels || c >= in.channels) return;
      const float2 other = buffer[i * kWarp];
      *reinterpret_cast<float2*>(row + (o * kDenseTaps + tap) * in.channels + c) =
          make_float2(pair[0] + other.x, pair[1] + other.y);
    });
  }
};

template <class T, int M, int N>
__global__ void __launch_bounds__(kDenseWgradThreads, 1)
    dense_wgrad_kernel(float* __restrict__ rows, const __grid_constant__ GradientView<T> dy,
                       const __grid_constant__ OperandView<T> in,
                       const __grid_constant__ DenseCut cut) {
  follow();
  using Kernel = DenseWgradKernel<T, M, N>;
  const Kernel k{dy, in, cut};
  const int begin = blockIdx.y * cut.per, steps = min(cut.per, cut.tiles - begin);
  typename Kernel::Copied next = k.copy(0, begin);
  commit_copies();
  k.stage_constants();
  wait_copies<0>();
  __syncthreads();
  k.transform(0, next);
  __syncthreads();

  const int pairs = dense_up(dense_up(cut.cells(), 2) - k.set, kDenseWgradSets);
  const Turns turns(pairs, k.me.warp / 4 == 0);
  typename Kernel::Sums sum = {};
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
#pragma unroll 1
    for (int turn = 0; turn <= pairs; ++turn) {
      if (more && turn == turns.copies) {
        next = k.copy(step + 1, begin + step + 1);
        commit_copies();
      }
      if (more && turn == turns.transforms) {
        wait_copies<0>();
        k.transform(step + 1, next);
      }
      if (turn < pairs) k.multiply_pair(sum, step, k.set + turn * kDenseWgradSets);
    }
    __syncthreads();
  }
  k.leave(sum, rows + int64_t{blockIdx.y} * dy.channels * kDenseTaps * in.channels);
}

constexpr int kMergeLanes = 32, kMergeShares = 8, kMergeVector = 4;

// dweight = the sum of the rows. A block takes 128 weights, and its warps share the rows.
__global__ void __launch_bounds__(kMergeLanes* kMergeShares)
    merge_dweight_kernel(float* __restrict__ dweight, const float* __restrict__ rows, int count,
                         int units) {
  follow();
  __shared__ double buffer[kMergeShares][kMergeVector][kMergeLanes];
  const int i = (blockIdx.x * kMergeLanes + threadIdx.x) * kMergeVector;
  double sum[kMergeVector] = {};
  if (i < count) {
#pragma unroll 4
    for (int unit = threadIdx.y; unit < units; unit += kMergeShares) {
      const float4 v = *reinterpret_cast<const float4*>(rows + int64_t{unit} * count + i);
      sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
    }
  }
#pragma unroll
  for (int k = 0; k < kMergeVector; ++k) buffer[threadIdx.y][k][threadIdx.x] = sum[k];
  __syncthreads();
  if (threadIdx.y != 0 || i >= count) return;
#pragma unroll
  for (int share = 1; share < kMergeShares; ++share)
#pragma unroll
    for (int k = 0; k < kMergeVector; ++k) sum[k] += buffer[share][k][threadIdx.x];
  *reinterpret_cast<float4*>(dweight + i) =
      make_float4(static_cast<float>(sum[0]), static_cast<float>(sum[1]),
                  static_cast<float>(sum[2]), static_cast<float>(sum[3]));
}

template <class T, int M, int N>
void run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in, float* rows,
         const DenseCut& cut, cudaStream_t stream) {
  const auto kernel = dense_wgrad_kernel<T, M, N>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int groups = dense_up(in.channels, DenseWgradKernel<T, M, N>::kGroup);
  launch(kernel, dim3(groups, cut.units), kDenseWgradThreads, cut.shared, stream, rows, dy, in,
         cut);
  const int count = dy.channels * kDenseTaps * in.channels;
  launch(merge_dweight_kernel, dense_up(count, kMergeLanes * kMergeVector),
         dim3(kMergeLanes, kMergeShares), 0, stream, dweight, rows, count, cut.units);
}

}  // namespace

template <class T>
void DenseWgrad<T>::run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in,
                        float* rows, cudaStream_t stream) {
  const DenseCut cut =
      dense_wgrad_cut(in.batch, in.height, in.width, in.channels, dy.channels, device_limits());
  if (dy.channels <= 32)
    kernels::run<T, 2, 4>(dweight, dy, in, rows, cut, stream);
  else if (dy.channels <= 48)
    kernels::run<T, 3, 2>(dweight, dy, in, rows, cut, stream);
  else
    kernels::run<T, 4, 2>(dweight, dy, in, rows, cut, stream);
}

template struct DenseWgrad<__half>;
template struct DenseWgrad<__nv_bfloat16>;

}  // namespace engine::kernels

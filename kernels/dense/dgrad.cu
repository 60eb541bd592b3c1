// Dense 3 × 3 convolution, the gradient of its operand: df = Σ over taps of Wᵀ · dy with dy made
// once for each pixel of a tile from (G_y, y), and in the epilogue the operand's gradient with its
// sums. A persistent block keeps all weights in shared memory; of its tiles, one is multiplied
// while the next one is copied and transformed. A warp makes 32 channels at a time, and asks for x
// there before. For each pixel it moves, in values of T, C' (G_y), C' more with a norm (y), C (G),
// and C more for each of x and an old G, and what the borders of the tiles read again, from L2.
#include "kernels/dense/tile.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"

namespace engine::kernels {
namespace {

constexpr int kTiles = kDenseChunk / 8;        // results of the matrix unit for 32 channels
constexpr int kVector = 4;                     // channels of a thread of the merge
constexpr int kResultPixels = 2 * kDenseRows;  // of a thread: those of two cells

template <class T>
struct DenseDgradKernel {
  const GradientSink<T>& sink;
  const GradientView<T>& dy;
  const OperandView<T>& in;
  const DenseCut& cut;
  DenseThread me;
  int along = me.warp % cut.shape.pixels, across = me.warp / cut.shape.pixels;  // of the warps
  int blocks = dense_up(in.channels, kDenseChunk), columns = blocks * kDenseChunk;
  int out_chunks = dense_up(dy.channels, kDenseChunk);
  int depth = dense_up(dy.channels, kDenseDepth) * kDenseDepth;
  Planes planes = tile_planes(cut);
  // The shared memory: weights, dy of two tiles, y of one, constants, sums of the warps.
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* gradients = weights + blocks * kDensePacks * dense_weight_packs(depth);
  Pack<T>* raw = gradients + 2 * out_chunks * kDensePacks * cut.plane;
  float* floats = reinterpret_cast<float*>(raw + out_chunks * kDensePacks * cut.plane);
  Constants of_dy{floats, floats + out_chunks* kDenseChunk};
  float* of_in = floats + 2 * out_chunks * kDenseChunk;  // scale, shift and mean
  ProductSums sums{of_in + 3 * columns, nullptr, cut.shape.pixels, columns};

  __device__ __forceinline__ bool reads_x() const { return !in.plain(); }

  // weights (packs of channels, taps, outs) = weight (C', 9, C), zero beyond the ends. The columns
  // 2t and 2t + 1 of result j are channels 8t + 2j and 8t + 2j + 1 of a block, so that a thread
  // makes eight neighbouring ones: words change places between four packs.
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    const int count = blocks * kDenseTaps * depth, stride = dense_weight_packs(depth);
#pragma unroll 2
    for (int i = me.index; i < count; i += me.count) {
      const int block = i % blocks, rest = i / blocks, tap = rest % kDenseTaps,
                o = rest / kDenseTaps;
      Pack<T> packs[kDensePacks];
#pragma unroll
      for (int t = 0; t < kDensePacks; ++t) {
        const int c = block * kDenseChunk + t * kPack;
        packs[t] =
            o < dy.channels && c < in.channels
                ? load_vector<kPack>(weight + (int64_t{o} * kDenseTaps + tap) * in.channels + c)
                : Pack<T>{};
      }
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
        *reinterpret_cast<uint4*>(weights + (block * kDensePacks + j) * stride + tap * depth + o) =
            make_uint4(word_of(packs[0], j), word_of(packs[1], j), word_of(packs[2], j),
                       word_of(packs[3], j));
    }
  }
  __device__ __forceinline__ void stage_constants() const {
    of_dy.stage(out_chunks * kDenseChunk, 0, dy.channels, me, [&](int c) {
      return GradientSource<T>{dy, nullptr}.constants(c);
    });
    for (int c = me.index; c < columns; c += me.count) stage_operand(of_in, columns, c, in, c);
    for (int i = me.index; i < 2 * cut.shape.pixels * columns; i += me.count) sums.at[i] = 0;
  }

  __device__ __forceinline__ Pack<T>* stage(int step) const {
    return gradients + step % 2 * out_chunks * kDensePacks * cut.plane;
  }
  __device__ __forceinline__ Inside copy(int step, int tile) const {
    const DensePlace place = dense_place(cut, tile);
    const int pack = me.index % kDensePacks;
    return copy_pixels(
        cut.staged, me, [&](int at) { return dense_staged(cut, place, at); },
        [&](int at, int pixel) {
          for (int i = 0; i < out_chunks; ++i) {
            const int c = i * kDenseChunk + pack * kPack;
            const int to = (i * kDensePacks + pack) * cut.plane + at;
            copy_pack(stage(step) + to, dy.grad, dy.pitch, dy.channels, c, pixel);
            if (dy.normed()) copy_pack(raw + to, dy.x, dy.pitch, dy.channels, c, pixel);
          }
        });
  }
  __device__ __forceinline__ void transform(int step, Inside inside) const {
    if (!dy.normed()) return;
    for (int i = 0; i < out_chunks; ++i) {
      const int from = i * kDensePacks * cut.plane;
      transform_gradient<4>(stage(step) + from, raw + from, planes, inside, of_dy, i * kDenseChunk,
                            me);
    }
  }

  // df of a block of channels. What a pixel gets through a tap is what the output's pixel on the
  // other side of it sends.
  __device__ __forceinline__ void multiply(float (&df)[kDenseRows][kTiles][4], int step,
                                           int block) const {
    // Lane 8·i + j addresses out j of half i % 2 of a step's, at tile i / 2.
    const int stride = dense_weight_packs(depth), matrix = me.lane / 8;
    const uint32_t of_weights = banded::shared_address(
        weights + (block * kDensePacks + matrix / 2) * stride + matrix % 2 * 8 + me.lane % 8);
    const uint32_t cells = banded::shared_address(stage(step) + lane_of_cells(cut, me, 2 * along));
    const auto load = [&](uint32_t(&b)[kTiles][2], int sixteen, int tap) {
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        const int at = j * stride + (kDenseTaps - 1 - tap) * depth + sixteen * kDenseDepth;
        uint32_t r[4];
        banded::load_transposed(r, of_weights + at * sizeof(Pack<T>));
        b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
      }
    };
    multiply_chunk<T>(df, cells, depth / kDenseDepth, cut, load);
  }

  // Calls use(i, pixel) for the pixels of a thread's results, i = cell · kDenseRows + row.
  template <class Use>
  __device__ __forceinline__ void for_pixels(const DensePlace& place, Use use) const {
    for_results(cut, place, 2 * along, me.g,
                [&](int cell, int row, int64_t pixel) { use(cell * kDenseRows + row, pixel); });
  }

  // The gradient of a block of channels at the tile's pixels: t = df·act', G (= or +=) scale·t, Σt
  // and Σt·(x − mean).
  __device__ __forceinline__ void store(const float (&df)[kDenseRows][kTiles][4],
                                        const Pack<T> (&x)[kResultPixels], const DensePlace& place,
                                        int block) const {
    const int column = block * kDenseChunk + me.t * kPack;
    const bool present = column < in.channels, relu = in.act == Activation::relu,
               adds = sink.how == Write::add;
    Pack<T> grad[kResultPixels] = {};
    if (adds && present)
      for_pixels(place, [&](int i, int64_t pixel) {
        grad[i] = load_vector<kPack>(sink.grad + pixel * sink.pitch + column);
      });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const OperandHalf of(of_in, columns, column + half * kHalfPack);
      float sum_t[kHalfPack] = {}, sum_t_x[kHalfPack] = {};
      if (present)
        for_pixels(place, [&](int i, int64_t) {
          float value[kHalfPack], old[kHalfPack], at[kHalfPack] = {};
          to_floats(old, half_of(grad[i], half));
          if (reads_x()) load_half(at, &x[i], half);
#pragma unroll
          for (int k = 0; k < kHalfPack; ++k) {
            const int channel = half * kHalfPack + k;
            const float u = fmaf(of.scale[k], at[k], of.shift[k]);
            float t = df[i % kDenseRows][channel / 2][i / kDenseRows * 2 + channel % 2];
            if (relu) t *= activate(Activation::relu, u).slope;
            sum_t[k] += t;
            sum_t_x[k] = fmaf(t, at[k] - of.mean[k], sum_t_x[k]);
            value[k] = fmaf(t, of.scale[k], old[k]);
          }
          half_of(grad[i], half) = vector_of<T>(value);
        });
      if (!in.norm.present()) continue;
      sums.fold(0, along, column + half * kHalfPack, sum_t);
      sums.fold(1, along, column + half * kHalfPack, sum_t_x);
    }
    if (present)
      for_pixels(place, [&](int i, int64_t pixel) {
        store_vector(sink.grad + pixel * sink.pitch + column, grad[i]);
      });
  }

  // Makes and stores the gradient of a block of channels.
  __device__ __forceinline__ void make(int step, int tile, int block) const {
    const DensePlace place = dense_place(cut, tile);
    const int column = block * kDenseChunk + me.t * kPack;
    Pack<T> x[kResultPixels];
    if (reads_x() && column < in.channels)
      for_pixels(place, [&](int i, int64_t pixel) {
        x[i] = load_vector<kPack>(in.x + pixel * in.pitch + column);
      });
    float df[kDenseRows][kTiles][4] = {};
    multiply(df, step, block);
    store(df, x, place, block);
  }

  // Leaves the block's row of sums.
  __device__ __forceinline__ void leave(float* partials) const {
    for (int c = me.index; c < in.channels; c += me.count) {
      float sum[2] = {};
      for (int w = 0; w < cut.shape.pixels; ++w)
#pragma unroll
        for (int i = 0; i < 2; ++i) sum[i] += sums.of(i, w, c);
      partial(partials, 0, in.channels)[c] = sum[0];
      partial(partials, 1, in.channels)[c] = sum[1] * in.norm.channel(c).inv_std;
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kDenseMostThreads, 1)
    dense_dgrad_kernel(const __grid_constant__ GradientSink<T> sink,
                       const __grid_constant__ GradientView<T> dy,
                       const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                       Partials partials, const __grid_constant__ DenseCut cut) {
  follow();
  const DenseDgradKernel<T> k{sink, dy, in, cut};
  const int begin = blockIdx.y * cut.per, steps = min(cut.per, cut.tiles - begin);
  Inside next = k.copy(0, begin);
  commit_copies();
  k.stage_weights(weight);
  k.stage_constants();
  wait_copies<0>();
  __syncthreads();
  k.transform(0, next);
  __syncthreads();

  const int blocks = dense_up(k.blocks - k.across, cut.shape.channels);
  const Turns turns(blocks, k.me.warp / 4 % 2 != 0);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
#pragma unroll 1
    for (int turn = 0; turn <= blocks; ++turn) {
      if (more && turn == turns.copies) {
        next = k.copy(step + 1, begin + step + 1);
        commit_copies();
      }
      if (more && turn == turns.transforms) {
        wait_copies<0>();
        k.transform(step + 1, next);
      }
      if (turn < blocks) k.make(step, begin + step, k.across + turn * cut.shape.channels);
    }
    __syncthreads();
  }

  if (!takes_sums(sink)) return;
  k.leave(partials.rows);
  finish_norm_sums(sink, in, partials, *reinterpret_cast<SumBuffer<kVector>*>(dynamic_shared));
}

}  // namespace

template <class T>
void DenseDgrad<T>::run(const GradientSink<T>& sink, const GradientView<T>& dy,
                        const OperandView<T>& in, const T* weight, const Partials& partials,
                        cudaStream_t stream) {
  const DenseCut cut =
      dense_dgrad_cut(in.batch, in.height, in.width, in.channels, dy.channels, device_limits());
  const auto kernel = dense_dgrad_kernel<T>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int lanes = in.channels <= kWarp * kVector ? kWarp : 2 * kWarp;
  launch(kernel, dim3(1, cut.units), dim3(lanes, cut.shape.threads() / lanes), cut.shared, stream,
         sink, dy, in, weight, partials, cut);
}

template struct DenseDgrad<__half>;
template struct DenseDgrad<__nv_bfloat16>;

}  // namespace engine::kernels

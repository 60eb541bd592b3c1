// Dense 3 × 3 convolution, the gradient of its operand: df = Σ over taps of Wᵀ · dy with dy made
// once for each pixel of a tile from (G_y, y), and in the epilogue the operand's gradient with its
// sums. A persistent block keeps all weights in shared memory; while one of its tiles is
// multiplied, the next one is copied. A warpgroup has 64 channels of the operand, and with them
// every so many products of 64 positions; it keeps its sums in registers over all of its tiles. For
// each pixel it moves, in values of T, C' (G_y), C' more with a norm (y), C (G), and C more for
// each of x and an old G, and what the borders of the tiles read again, from L2.
#include "kernels/dense/tile.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"

namespace engine::kernels {
namespace {

constexpr int kWarpgroupsOfBlock = kDenseDgradThreads / kWarpgroup;
constexpr int kBlocks =
    kDenseGroup / kDenseChunk;           // of 32 channels: eight for each of four threads
constexpr int kTiles = kDenseChunk / 8;  // results of the matrix unit for one
constexpr int kVector = 4;               // channels of a thread of the merge

template <class T>
struct DenseDgradKernel {
  // Of a thread: the channels of a block in two rows of a product.
  using Packs = Pack<T>[kBlocks][2];
  using Results = float[kBlocks * kTiles][4];
  struct Sums {
    float t[kBlocks][kPack] = {}, t_x[kBlocks][kPack] = {};
  };

  const GradientSink<T>& sink;
  const GradientView<T>& dy;
  const OperandView<T>& in;
  const DenseCut& cut;
  DenseThread me;
  int groups = dense_up(in.channels, kDenseGroup), columns = groups * kDenseGroup;
  int group = me.warpgroup % groups, along = me.warpgroup / groups;  // of the warpgroups
  int warpgroups = kWarpgroupsOfBlock / groups;                      // of a group of channels
  int column = group * kDenseGroup + me.t * kPack;                   // the thread's first channel
  int out_chunks = dense_up(dy.channels, kDenseChunk);
  int depths = dense_up(dy.channels, kDenseDepth), depth = depths * kDenseDepth;
  int weight_packs = dense_weight_packs(depth);
  // The shared memory: weights, dy of two tiles, y of one, what threads copied ahead, constants,
  // places of positions.
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* gradients = weights + columns / kPack * weight_packs;
  Pack<T>* raw = gradients + 2 * out_chunks * kDensePacks * cut.plane;
  Pack<T>* ahead = raw + out_chunks * kDensePacks * cut.plane;
  float* floats = reinterpret_cast<float*>(ahead + kDenseAhead * kDenseDgradThreads);
  Constants of_dy{floats, floats + out_chunks* kDenseChunk};
  float* of_in = floats + 2 * out_chunks * kDenseChunk;  // scale, shift and mean
  DenseOffsets offsets{reinterpret_cast<int*>(of_in + 3 * columns)};

  __device__ __forceinline__ bool reads_x() const { return !in.plain(); }
  __device__ __forceinline__ bool adds() const { return sink.how == Write::add; }

  // weights (packs of channels, taps, outs) = weight (C', 9, C), zero beyond the ends; the channels
  // of a block in the order of store_columns().
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    const int blocks = columns / kDenseChunk, count = blocks * kDenseTaps * depth;
#pragma unroll 2
    for (int i = me.index; i < count; i += me.count) {
      const int at = i / blocks, block = i - at * blocks, o = at / kDenseTaps,
                tap = at - o * kDenseTaps;
      Pack<T> packs[kDensePacks];
#pragma unroll
      for (int t = 0; t < kDensePacks; ++t) {
        const int c = block * kDenseChunk + t * kPack;
        packs[t] = load_if(o < dy.channels && c < in.channels,
                           weight + (int64_t{o} * kDenseTaps + tap) * in.channels + c);
      }
      store_columns(weights + block * kDensePacks * weight_packs + tap * depth + o, weight_packs,
                    packs);
    }
  }
  __device__ __forceinline__ void stage_constants() const {
    of_dy.stage(out_chunks * kDenseChunk, 0, dy.channels, me, [&](int c) {
      return GradientSource<T>{dy, nullptr}.constants(c);
    });
    for (int c = me.index; c < columns; c += me.count) stage_operand(of_in, columns, c, in, c);
  }

  __device__ __forceinline__ Pack<T>* stage(int step) const {
    return gradients + step % 2 * out_chunks * kDensePacks * cut.plane;
  }
  // Copies G of a tile to its stage, and y beside it if dy has a norm to go through.
  __device__ __forceinline__ void copy(int step, int begin) const {
    const DensePlace place = dense_place(cut, begin + step);
    for (int chunk = 0; chunk < out_chunks; ++chunk) {
      const int c = chunk * kDenseChunk + me.pack * kPack;
      const int plane = (chunk * kDensePacks + me.pack) * cut.plane + me.at;
      const T* from[kPositions];
      uint32_t inside = 0;
#pragma unroll
      for (int i = 0; i < kPositions; ++i) {
        const int pixel = offsets.pixel(place, me.at + i * kStep, place.end);
        const bool wanted = pixel >= 0 && c < dy.channels;
        from[i] = dy.grad + (wanted ? int64_t{pixel} * dy.pitch + c : 0);
        inside |= uint32_t{wanted} << i;
      }
      copy_positions(stage(step) + plane, from, inside);
      if (!dy.normed()) continue;
#pragma unroll
      for (int i = 0; i < kPositions; ++i) from[i] = dy.x + (from[i] - dy.grad);
      copy_positions(raw + plane, from, inside);
    }
  }
  // G becomes dy = G + scale·y + shift, at the pixels that the thread copied.
  __device__ __forceinline__ void transform(int step, int begin) const {
    if (!dy.normed()) return;
    const DensePlace place = dense_place(cut, begin + step);
    for (int chunk = 0; chunk < out_chunks; ++chunk) {
      const int plane = (chunk * kDensePacks + me.pack) * cut.plane;
      Pack<T>* const gradient = stage(step) + plane;
      float a[kPack], b[kPack];
      of_dy.load(a, b, chunk * kDenseChunk + me.pack * kPack);
      for_staged([&](int at) {
        if (offsets.pixel(place, at, place.end) < 0) return;
        store_vector(&gradient[at].at[0],
                     complete_pack(load_vector<kPack>(&gradient[at].at[0]),
                                   load_vector<kPack>(&raw[plane + at].at[0]), a, b));
      });
    }
  }

  // Begins the product of 64 positions from `row` on, counted from the first pixel. What a pixel
  // gets through a tap is what the output's pixel on the other side of it sends.
  __device__ __forceinline__ void multiply(Results& df, int step, int row) const {
    const uint64_t pixels =
        planes_descriptor<Inner::channels>(banded::shared_address(stage(step) + row), cut.plane);
    const uint64_t of_weights = planes_descriptor<Inner::positions>(
        banded::shared_address(weights + group * kDenseGroup / kPack * weight_packs), weight_packs);
    open_products();
#pragma unroll 1
    for (int i = 0; i < depths; ++i)
#pragma unroll
      for (int tap = 0; tap < kDenseTaps; ++tap)
        multiply_planes<T, Inner::channels, Inner::positions>(
            df, pixels + 2 * i * cut.plane + (2 - tap / 3) * cut.pitch + 2 - tap % 3,
            of_weights + tap * depth + i * kDenseDepth, i > 0 || tap > 0);
    commit_products();
  }

  // The pixels of the thread's rows of a product; negative where there is none.
  __device__ __forceinline__ void find(int (&pixel)[2], int step, int begin, int product) const {
    const DensePlace place = dense_place(cut, begin + step);
    pixel[0] = pixel[1] = -1;
    for_results(offsets, place, cut.first() + product * kDenseRows, me,
                [&](int half, int64_t at) { pixel[half] = static_cast<int>(at); });
  }
  // Copies x there to places of the thread's own.
  __device__ __forceinline__ void copy_ahead(int step, int begin, int product) const {
    if (!reads_x()) return;
    int pixel[2];
    find(pixel, step, begin, product);
    const T* from[kDenseAhead];
    const auto wanted = [&](int i) {
      return pixel[i % 2] >= 0 && column + i / 2 * kDenseChunk < in.channels;
    };
#pragma unroll
    for (int i = 0; i < kDenseAhead; ++i)
      from[i] =
          in.x + (wanted(i) ? int64_t{pixel[i % 2]} * in.pitch + column + i / 2 * kDenseChunk : 0);
    keep_apart(from);
#pragma unroll
    for (int i = 0; i < kDenseAhead; ++i)
      copy_or_zero(ahead + i * kDenseDgradThreads + me.index, from[i], wanted(i));
  }
  __device__ __forceinline__ void take(Packs& x) const {
#pragma unroll
    for (int i = 0; i < kDenseAhead; ++i)
      x[i / 2][i % 2] = load_vector<kPack>(&ahead[i * kDenseDgradThreads + me.index].at[0]);
  }

  // The gradient at the thread's rows: t = df·act', G (= or +=) scale·t, Σt and Σt·(x − mean).
  __device__ __forceinline__ void store(const Results& df, const Packs& x, const int (&pixel)[2],
                                        Sums& sums) const {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int c = column + block * kDenseChunk;
      Pack<T> grad[2];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        grad[half] = load_if(adds() && pixel[half] >= 0 && c < in.channels,
                             sink.grad + int64_t{pixel[half]} * sink.pitch + c);
#pragma unroll
      for (int quarter = 0; quarter < 2; ++quarter) {
        const OperandConstants<kHalfPack> of(of_in, columns, c + quarter * kHalfPack);
#pragma unroll
        for (int half = 0; half < 2; ++half)
          through(df, block, half, quarter, of, x[block][half], grad[half], pixel[half] >= 0, sums);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (pixel[half] >= 0 && c < in.channels)
          store_vector(sink.grad + int64_t{pixel[half]} * sink.pitch + c, grad[half]);
    }
  }
  // Four channels of one row of a block.
  __device__ __forceinline__ void through(const Results& df, int block, int half, int quarter,
                                          const OperandConstants<kHalfPack>& of, const Pack<T>& x,
                                          Pack<T>& grad, bool inside, Sums& sums) const {
    float at[kHalfPack], value[kHalfPack];
    load_half(at, &x, quarter);
    to_floats(value, half_of(grad, quarter));
#pragma unroll
    for (int k = 0; k < kHalfPack; ++k) {
      const int channel = quarter * kHalfPack + k;
      const float slope =
          in.act == Activation::relu
              ? activate(Activation::relu, fmaf(of.scale[k], at[k], of.shift[k])).slope
              : 1.f;
      const float result = df[block * kTiles + channel / 2][2 * half + channel % 2];
      const float t = inside ? result * slope : 0.f;
      sums.t[block][channel] += t;
      sums.t_x[block][channel] = fmaf(t, at[k] - of.mean[k], sums.t_x[block][channel]);
      value[k] = fmaf(t, of.scale[k], value[k]);
    }
    half_of(grad, quarter) = vector_of<T>(value);
  }

  __device__ __forceinline__ bool works() const {
    return along < warpgroups && along < cut.products;
  }
  // The warpgroup's products of a tile. Of what a thread copies, the next tile is older than what
  // it copies ahead for the products after the first one.
  __device__ __forceinline__ void make(int step, int begin, bool more, Sums& sums) const {
    if (!works()) return wait_copies<0>();
#pragma unroll 1
    for (int product = along; product < cut.products; product += warpgroups) {
      if (product == along)
        wait_copies<1>();
      else
        wait_copies<0>();
      Results df;
      multiply(df, step, product * kDenseRows);
      int pixel[2];
      find(pixel, step, begin, product);
      wait_products<0>();
      Packs x = {};
      if (reads_x()) take(x);
      const bool last = product + warpgroups >= cut.products;
      if (!last || more)
        copy_ahead(last ? step + 1 : step, begin, last ? along : product + warpgroups);
      commit_copies();
      store(df, x, pixel, sums);
    }
    wait_copies<1>();
  }

  // Leaves the block's row of sums.
  __device__ __forceinline__ void leave(const Sums& sums, float* partials) const {
    constexpr int kWarps = kWarpgroup / kWarp;  // of a warpgroup
    const int shares = warpgroups * kWarps, share = along * kWarps + me.warp % kWarps;
    float* const buffer = reinterpret_cast<float*>(dynamic_shared);  // (2, shares, columns)
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float one = rows_sum(sums.t[block][k]), two = rows_sum(sums.t_x[block][k]);
        if (me.g != 0 || along >= warpgroups) continue;
        const int c = column + block * kDenseChunk + k;
        buffer[share * columns + c] = one;
        buffer[(shares + share) * columns + c] = two;
      }
    __syncthreads();
    leave_norm_sums(partials, buffer, shares, columns, 0, in, me.index, me.count);
  }

 private:
  // The positions of a chunk that a thread stages: every kStep-th one.
  static constexpr int kStep = kDenseDgradThreads / kDensePacks;
  static constexpr int kPositions = dense_up(kDenseMostStaged, kStep);

  __device__ __forceinline__ void copy_positions(Pack<T>* to, const T* (&from)[kPositions],
                                                 uint32_t inside) const {
    keep_apart(from);
#pragma unroll
    for (int i = 0; i < kPositions; ++i)
      if (me.at + i * kStep < cut.staged()) copy_or_zero(to + i * kStep, from[i], inside >> i & 1);
  }
  // Calls use(at) for them.
  template <class Use>
  __device__ __forceinline__ void for_staged(Use use) const {
    const int staged = cut.staged();
#pragma unroll 1
    for (int at = me.at; at < staged; at += kStep) use(at);
  }
};

template <class T>
__global__ void __launch_bounds__(kDenseDgradThreads, 1)
    dense_dgrad_kernel(const __grid_constant__ GradientSink<T> sink,
                       const __grid_constant__ GradientView<T> dy,
                       const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                       Partials partials, const __grid_constant__ DenseCut cut) {
  const DenseDgradKernel<T> k{sink, dy, in, cut};
  k.offsets.stage(cut, k.me);
  __syncthreads();
  follow();
  const int begin = blockIdx.y * cut.per, steps = min(cut.per, cut.tiles - begin);
  k.copy(0, begin);
  commit_copies();
  k.stage_weights(weight);
  k.stage_constants();
  wait_copies<0>();
  __syncthreads();
  k.transform(0, begin);
  show_to_products();
  __syncthreads();

  if (k.works()) k.copy_ahead(0, begin, k.along);
  commit_copies();
  typename DenseDgradKernel<T>::Sums sums;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
    if (more) k.copy(step + 1, begin);
    commit_copies();
    k.make(step, begin, more, sums);
    if (more) k.transform(step + 1, begin);
    show_to_products();
    __syncthreads();
  }

  if (!takes_sums(sink)) return;
  k.leave(sums, partials.rows);
  finish_norm_sums(sink, in, partials,
                   *reinterpret_cast<SumBuffer<kVector, kDenseDgradThreads>*>(dynamic_shared));
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
  launch(kernel, dim3(1, cut.units), dim3(lanes, kDenseDgradThreads / lanes), cut.shared, stream,
         sink, dy, in, weight, partials, cut);
}

template struct DenseDgrad<__half>;
template struct DenseDgrad<__nv_bfloat16>;

}  // namespace engine::kernels

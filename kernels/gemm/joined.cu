// Pointwise convolution, both gradients at once: df = Wᵀ · dy and dW = dyᵀ · f, with dy made once
// for each pixel of a tile from (G_y, y), and f = f(x) and the operand's gradient with its sums in
// the epilogue of df. A warpgroup has 32 channels of the operand, and holds their dW and sums in
// registers over all tiles of its block; it makes df of 64 pixels, leaves f of them in shared
// memory, and multiplies that by dy. While a tile is multiplied, the next one is copied.
// For each pixel it moves, in values of T, C for each of x and G, C more for an old G, and for each
// group of channels C' (G_y) or 2 C' (G_y, y), of which all but the first come from L2. The rows of
// dW are 4 bytes for each weight and unit, written and read.
#include "kernels/gemm/epilogue.cuh"
#include "kernels/joined_tiles.h"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/merge_rows.cuh"
#include "kernels/packs.cuh"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {
namespace {

constexpr int kSetPacks = kJoinedSet / kPack;  // each of them is one of four threads'
constexpr int kTiles = kJoinedSet / 8;         // results of the matrix unit for a set
constexpr int kWarpsOfGroup = kWarpgroup / kWarp;

// dW is held for `Halves` times 64 channels of the output.
template <class T, int Halves>
struct JoinedKernel {
  struct Sums {
    float dw[Halves][kTiles][4];
    float t[kPack] = {}, t_x[kPack] = {};
  };

  const GradientSink<T>& sink;
  const GradientView<T>& dy;
  const OperandView<T>& in;
  const JoinedCut& cut;
  int index = threadIdx.y * blockDim.x + threadIdx.x, lane = index % kWarp;
  int warp = index / kWarp % kWarpsOfGroup, g = lane / 4, t = lane % 4;  // of the warpgroup
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  int set = warpgroup % cut.sets, along = warpgroup / cut.sets,
      shares = kJoinedWarpgroups / cut.sets;  // of a set
  int first = blockIdx.x * cut.columns() + set * kJoinedSet, c = first + t * kPack;
  // Of a tile's dy: one pack of every `step`-th pixel, from `at` on.
  int packs = cut.packs(), pack = index % packs, at = index / packs, step = kJoinedThreads / packs;
  // The shared memory: dy of two tiles, y of one, f of two products, what threads copied ahead,
  // weights, constants.
  Pack<T>* gradients = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* raw = gradients + 2 * packs * kJoinedPlane;
  Pack<T>* f = raw + packs * kJoinedPlane + 2 * warpgroup * kSetPacks * kJoinedFPlane;
  Pack<T>* ahead = raw + packs * kJoinedPlane + 2 * kJoinedWarpgroups * kSetPacks * kJoinedFPlane;
  Pack<T>* weights = ahead + kJoinedAhead * kJoinedThreads;
  float* of_dy = reinterpret_cast<float*>(weights + cut.columns() / kPack * cut.weight_plane());
  float* of_in = of_dy + 2 * cut.depth;  // scale, shift and mean

  __device__ __forceinline__ bool adds() const { return sink.grad && sink.how == Write::add; }

  // weights (packs of channels, outs) = weight (C', C), zero beyond the ends; the channels of a set
  // in the order of store_columns().
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    for (int i = index; i < cut.sets * cut.depth; i += kJoinedThreads) {
      const int o = i / cut.sets, s = i - o * cut.sets;
      Pack<T> packs_of[kSetPacks];
#pragma unroll
      for (int k = 0; k < kSetPacks; ++k) {
        const int channel = blockIdx.x * cut.columns() + s * kJoinedSet + k * kPack;
        packs_of[k] = load_if(o < dy.channels && channel < in.channels,
                              weight + int64_t{o} * in.channels + channel);
      }
      store_columns(weights + s * kSetPacks * cut.weight_plane() + o, cut.weight_plane(), packs_of);
    }
  }
  __device__ __forceinline__ void stage_constants() const {
    for (int o = index; o < cut.depth; o += kJoinedThreads) {
      const Folded folded =
          o < dy.channels ? GradientSource<T>{dy, nullptr}.constants(o) : Folded{0.f, 0.f};
      of_dy[o] = folded.scale;
      of_dy[cut.depth + o] = folded.shift;
    }
    for (int k = index; k < cut.columns(); k += kJoinedThreads)
      stage_operand(of_in, cut.columns(), k, in, blockIdx.x * cut.columns() + k);
  }

  __device__ __forceinline__ Pack<T>* stage(int tile) const {
    return gradients + tile % 2 * packs * kJoinedPlane;
  }
  // Copies G of a tile to its stage, and y beside it if dy has a norm to go through.
  __device__ __forceinline__ void copy(int tile) const {
    if (at >= step) return;
    constexpr int kTogether = 4;
    const int channel = pack * kPack, begin = tile * kJoinedTile;
    Pack<T>* const to = stage(tile) + pack * kJoinedPlane;
    Pack<T>* const to_raw = raw + pack * kJoinedPlane;
#pragma unroll 1
    for (int i0 = at; i0 < kJoinedTile; i0 += kTogether * step) {
      const T* from[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        from[k] = dy.grad + (wanted(begin + i0 + k * step, channel)
                                 ? int64_t{begin + i0 + k * step} * dy.pitch + channel
                                 : 0);
      copy_together(to, from, begin, i0, channel);
      if (!dy.normed()) continue;
#pragma unroll
      for (int k = 0; k < kTogether; ++k) from[k] = dy.x + (from[k] - dy.grad);
      copy_together(to_raw, from, begin, i0, channel);
    }
  }
  __device__ __forceinline__ bool wanted(int pixel, int channel) const {
    return pixel < cut.pixels && channel < dy.channels;
  }
  template <int N>
  __device__ __forceinline__ void copy_together(Pack<T>* to, const T* (&from)[N], int begin, int i0,
                                                int channel) const {
    keep_apart(from);
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (i0 + k * step < kJoinedTile)
        copy_or_zero(to + i0 + k * step, from[k], wanted(begin + i0 + k * step, channel));
  }
  // G becomes dy = G + scale·y + shift, where the thread copied pixels.
  __device__ __forceinline__ void transform(int tile) const {
    if (!dy.normed() || at >= step) return;
    float a[kPack], b[kPack];
    load_floats(a, of_dy + pack * kPack);
    load_floats(b, of_dy + cut.depth + pack * kPack);
    Pack<T>* const gradient = stage(tile) + pack * kJoinedPlane;
    const Pack<T>* const y = raw + pack * kJoinedPlane;
    const int end = min(kJoinedTile, cut.pixels - tile * kJoinedTile);
#pragma unroll 4
    for (int i = at; i < end; i += step)
      store_vector(&gradient[i].at[0], complete_pack(load_vector<kPack>(&gradient[i].at[0]),
                                                     load_vector<kPack>(&y[i].at[0]), a, b));
  }

  // Begins df (64 pixels, set) of a product's pixels, which begin at `row` of the tile.
  __device__ __forceinline__ void multiply_operand(float (&df)[kTiles][4], int tile,
                                                   int row) const {
    const uint64_t a =
        planes_descriptor<Inner::channels>(banded::shared_address(stage(tile) + row), kJoinedPlane);
    const uint64_t b = planes_descriptor<Inner::positions>(
        banded::shared_address(weights + set * kSetPacks * cut.weight_plane()), cut.weight_plane());
    open_products();
#pragma unroll 1
    for (int i = 0; i < packs / 2; ++i)
      multiply_planes<T, Inner::channels, Inner::positions>(df, a + 2 * i * kJoinedPlane,
                                                            b + i * kWarpgroupDepth, i > 0);
    commit_products();
  }
  // Begins dW (C', set) += dyᵀ · f of the same pixels.
  __device__ __forceinline__ void multiply_weight(Sums& sums, const Pack<T>* of, int tile, int row,
                                                  bool adds) const {
    const uint64_t a = planes_descriptor<Inner::positions>(
        banded::shared_address(stage(tile) + row), kJoinedPlane);
    const uint64_t b =
        planes_descriptor<Inner::positions>(banded::shared_address(of), kJoinedFPlane);
    open_products();
#pragma unroll
    for (int half = 0; half < Halves; ++half)
#pragma unroll
      for (int i = 0; i < kJoinedProduct / kWarpgroupDepth; ++i)
        multiply_planes<T, Inner::positions, Inner::positions>(
            sums.dw[half], a + half * 8 * kJoinedPlane + i * kWarpgroupDepth,
            b + i * kWarpgroupDepth, adds || i > 0);
    commit_products();
  }

  // Eight channels of one pixel: t = df·act', G (= or +=) scale·t, Σt and Σt·(x − mean), and f.
  template <class Act>
  __device__ __forceinline__ void through(const float (&df)[kTiles][4], int half, bool inside,
                                          const Pack<T>& x, Pack<T>& grad, Pack<T>& value_of_f,
                                          Sums& sums, float halved, Act activation) const {
#pragma unroll
    for (int quarter = 0; quarter < 2; ++quarter) {
      const OperandConstants<kHalfPack> of(of_in, cut.columns(),
                                           set * kJoinedSet + t * kPack + quarter * kHalfPack);
      float at_x[kHalfPack], value[kHalfPack], act[kHalfPack];
      load_half(at_x, &x, quarter);
      to_floats(value, half_of(grad, quarter));
#pragma unroll
      for (int k = 0; k < kHalfPack; ++k) {
        const int channel = quarter * kHalfPack + k;
        const Activated<float> a = activation(fmaf(of.scale[k], at_x[k], of.shift[k]));
        const float result = df[channel / 2][2 * half + channel % 2] * a.slope;
        const float of_t = inside ? result : 0.f;
        sums.t[channel] += of_t;
        sums.t_x[channel] = fmaf(of_t, at_x[k] - of.mean[k], sums.t_x[channel]);
        value[k] = fmaf(of_t, halved * of.scale[k], value[k]);
        act[k] = a.h;
      }
      half_of(grad, quarter) = vector_of<T>(value);
      half_of(value_of_f, quarter) = vector_of<T>(act);
    }
  }

  // Copies x and an old G of the thread's pixels of a product to places of its own.
  __device__ __forceinline__ void copy_ahead(int tile, int row) const {
    const int pixel = tile * kJoinedTile + row + warp * 16 + g;
    const T* from[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool has = pixel + 8 * half < cut.pixels && c < in.channels;
      from[half] = in.x + (has ? int64_t{pixel + 8 * half} * in.pitch + c : 0);
      from[2 + half] = sink.grad + (has ? int64_t{pixel + 8 * half} * sink.pitch + c : 0);
    }
    keep_apart(from);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool has = pixel + 8 * half < cut.pixels && c < in.channels;
      copy_or_zero(ahead + half * kJoinedThreads + index, from[half], has);
      if (adds()) copy_or_zero(ahead + (2 + half) * kJoinedThreads + index, from[2 + half], has);
    }
  }
  __device__ __forceinline__ Pack<T> copied(int which) const {
    return load_vector<kPack>(&ahead[which * kJoinedThreads + index].at[0]);
  }

  // One product of 64 pixels, whose x and G were copied ahead: the gradient of the operand, f to
  // `to`, and dW of it begun. What the next one reads is copied, if there is one.
  template <class Act>
  __device__ __forceinline__ void make(int tile, int row, int next_tile, int next_row, Pack<T>* to,
                                       Sums& sums, bool adds_dw, float halved,
                                       Act activation) const {
    const int pixel = tile * kJoinedTile + row + warp * 16 + g;  // and the one eight further
    float df[kTiles][4];
    multiply_operand(df, tile, row);
    wait_products<0>();
    const Pack<T> x[2] = {copied(0), copied(1)};
    Pack<T> grad[2] = {};
    if (adds()) grad[0] = copied(2), grad[1] = copied(3);
    if (next_row >= 0) copy_ahead(next_tile, next_row);
    commit_copies();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool inside = pixel + 8 * half < cut.pixels;
      Pack<T> value;
      through(df, half, inside, x[half], grad[half], value, sums, halved, activation);
      store_vector(&to[t * kJoinedFPlane + warp * 16 + g + 8 * half].at[0], value);
      if (inside && c < in.channels && sink.grad)
        store_vector(sink.grad + int64_t{pixel + 8 * half} * sink.pitch + c, grad[half]);
    }
    show_to_products();
    sync_warpgroup(warpgroup);
    multiply_weight(sums, to, tile, row, adds_dw);
  }

  // The rows of dW, (C', C), to `row`: those of the warpgroups of a set are added in order.
  __device__ __forceinline__ void leave_weight(Sums& sums, float* row) const {
    float* const buffer = reinterpret_cast<float*>(dynamic_shared) + index % kWarpgroup;
    constexpr int kEach = Halves * kTiles * 4;
    for (int share = 1; share < shares; ++share) {
      __syncthreads();
      const int slot = set * kEach * kWarpgroup;
      if (along == share)
        for_results(sums, [&](float& value, int i) { buffer[slot + i * kWarpgroup] = value; });
      __syncthreads();
      if (along == 0)
        for_results(sums, [&](float& value, int i) { value += buffer[slot + i * kWarpgroup]; });
    }
    if (along != 0) return;
#pragma unroll
    for (int half = 0; half < Halves; ++half)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int o = half * 64 + warp * 16 + high * 8 + g, channel = first + 8 * j + 2 * t;
          if (o < dy.channels && channel < in.channels)
            *reinterpret_cast<float2*>(row + int64_t{o} * in.channels + channel) =
                make_float2(sums.dw[half][j][2 * high], sums.dw[half][j][2 * high + 1]);
        }
  }
  template <class Use>
  __device__ __forceinline__ void for_results(Sums& sums, Use use) const {
#pragma unroll
    for (int half = 0; half < Halves; ++half)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) use(sums.dw[half][j][k], (half * kTiles + j) * 4 + k);
  }

  // Leaves the block's row of the norm's sums.
  __device__ __forceinline__ void leave_norm(const Sums& sums, float* partials) const {
    const int rows = shares * kWarpsOfGroup, share = along * kWarpsOfGroup + warp;
    float* const buffer = reinterpret_cast<float*>(dynamic_shared);  // (2, rows, columns)
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float one = rows_sum(sums.t[k]), two = rows_sum(sums.t_x[k]);
      if (g != 0 || along >= shares) continue;
      const int column = set * kJoinedSet + t * kPack + k;
      buffer[share * cut.columns() + column] = one;
      buffer[(rows + share) * cut.columns() + column] = two;
    }
    __syncthreads();
    leave_norm_sums(partials, buffer, rows, cut.columns(), blockIdx.x * cut.columns(), in, index,
                    kJoinedThreads);
  }

  // All tiles of the block. Of what a thread copies, the next tile is older than what it copies
  // ahead for the products after the first one.
  template <class Act>
  __device__ __forceinline__ void run(Sums& sums, int begin, int end, float halved,
                                      Act activation) const {
    const int first_row = along * kJoinedProduct, stride = shares * kJoinedProduct;
    const bool works = along < shares && first_row < kJoinedTile;
    bool adds_dw = false;
    int buffer = 0;
    if (works) copy_ahead(begin, first_row);
    commit_copies();
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      const bool more = tile + 1 < end;
      if (more) copy(tile + 1);
      commit_copies();
#pragma unroll 1
      for (int row = first_row; works && row < kJoinedTile; row += stride) {
        const bool last = row + stride >= kJoinedTile;
        if (row == first_row)
          wait_copies<1>();
        else
          wait_copies<0>();
        make(tile, row, last ? tile + 1 : tile, last ? (more ? first_row : -1) : row + stride,
             f + buffer * kSetPacks * kJoinedFPlane, sums, adds_dw, halved, activation);
        buffer ^= 1;
        adds_dw = true;
      }
      // Those with nothing to do meet as many barriers as the others: racecheck tells what lies
      // between two barriers by how many a thread has met.
      for (int row = 0; !works && row < kJoinedTile; row += stride) sync_warpgroup(warpgroup);
      if (works)
        wait_copies<1>();
      else
        wait_copies<0>();
      if (more) transform(tile + 1);
      wait_products<0>();
      show_to_products();
      __syncthreads();
    }
  }
};

template <class T, int Halves>
__global__ void __launch_bounds__(kJoinedThreads, 1)
    joined_kernel(float* __restrict__ dweight, const __grid_constant__ GradientSink<T> sink,
                  const __grid_constant__ GradientView<T> dy,
                  const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                  Partials partials, const __grid_constant__ JoinedCut cut) {
  const JoinedKernel<T, Halves> k{sink, dy, in, cut};
  k.stage_weights(weight);
  follow();
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles);
  k.copy(begin);
  commit_copies();
  k.stage_constants();
  wait_copies<0>();
  __syncthreads();
  k.transform(begin);
  show_to_products();
  __syncthreads();

  typename JoinedKernel<T, Halves>::Sums sums;
  k.for_results(sums, [](float& value, int) { value = 0; });
  if (in.act == Activation::silu)
    k.run(sums, begin, end, 2.f, [](float v) { return silu_with_slope_of_half(v); });
  else if (in.act == Activation::relu)
    k.run(sums, begin, end, 1.f, [](float u) { return activate(Activation::relu, u); });
  else
    k.run(sums, begin, end, 1.f, [act = in.act](float u) { return activate(act, u); });
  k.leave_weight(sums, dweight + int64_t{blockIdx.y} * dy.channels * in.channels);
  if (!takes_sums(sink)) return;
  k.leave_norm(sums, partials.rows);
  // A block merges the channels of its group, with a thread for each or for every four.
  const auto finish = [&](auto& buffer) { finish_norm_sums(sink, in, partials, buffer); };
  if (cut.sets == 3)
    finish(*reinterpret_cast<SumBuffer<3, kJoinedThreads>*>(dynamic_shared));
  else
    finish(*reinterpret_cast<SumBuffer<4, kJoinedThreads>*>(dynamic_shared));
}

}  // namespace

template <class T>
void PointwiseJoined<T>::run(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                             const OperandView<T>& in, const T* weight, float* rows,
                             const Partials& partials, cudaStream_t stream) {
  const JoinedCut cut = joined_cut(in.pixels(), in.channels, dy.channels, device_limits());
  const auto kernel = cut.depth <= 64 ? joined_kernel<T, 1> : joined_kernel<T, 2>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int lanes = cut.sets == 3 ? 32 : cut.sets * 8;
  launch(kernel, dim3(cut.groups, cut.units), dim3(lanes, kJoinedThreads / lanes), cut.shared,
         stream, cut.units > 1 ? rows : dweight, sink, dy, in, weight, partials, cut);
  if (cut.units > 1)
    merge_rows(dweight, rows, cut.units, int64_t{dy.channels} * in.channels, stream);
}

template struct PointwiseJoined<__half>;
template struct PointwiseJoined<__nv_bfloat16>;

}  // namespace engine::kernels

// Pointwise convolution, both gradients at once from (G_y, f), where the operand is narrower than
// the output, whose norm needs nothing of the output itself (kernels/gemm/folded.cuh).
//
// One warpgroup fills stages: it asks the copy engine for G, which goes to the matrix unit as it
// is, and for x, of which it makes f in place, and holds f · fᵀ and Σ f. Each of the four others
// makes df of 64 pixels of a tile for a set of channels, and holds G · fᵀ of 64 channels of the
// output.
// For each pixel it moves, in values of T, C' (G_y), C for each of x and G, and C more for an old
// G. The rows of sums are 4 bytes for each of (C' + C)·C and unit, written and read.
#include "kernels/copies.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/folded.cuh"
#include "kernels/gemm/folded_sink.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/merge_rows.cuh"
#include "kernels/narrow_tiles.h"
#include "kernels/packs.cuh"
#include "kernels/ring.cuh"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {
namespace {

// G (pixels, C'), 64 channels at a time, and x (pixels, C).
struct NarrowMaps {
  CUtensorMap g, x;
};

// A set of the operand's channels is 8 · Tiles.
template <class T, int Tiles>
struct NarrowKernel {
  static constexpr int kSet = 8 * Tiles, kColumns = kNarrowSets * kSet;
  static constexpr int kRowBytes = 2 * kColumns;          // of f
  static constexpr int kGradientBytes = 2 * kNarrowOuts;  // a row of a block of G
  static constexpr int kOperandPacks = kColumns / kPack;
  static constexpr int kOfThread = 2 * Tiles;       // channels of a thread, in two rows of df
  static constexpr int kShares = kNarrowTile / 16;  // warps of a set

  const GradientSink<T>& sink;
  const GradientView<T>& dy;
  const OperandView<T>& in;
  const FoldedMemory<T>& from;
  const NarrowCut& cut;
  int index = threadIdx.y * blockDim.x + threadIdx.x, lane = index % kWarp;
  int warp = index / kWarp % (kWarpgroup / kWarp);  // of the warpgroup
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  // The shared memory: the stages, each of blocks of G, and of f; folded weights; constants; what
  // is left at the end; whether stages are loaded, full, and empty.
  unsigned char* stages =
      dynamic_shared + (-banded::shared_address(dynamic_shared) & (kNarrowAlignment - 1));
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(stages + cut.stages * cut.stage());
  float* of_in = reinterpret_cast<float*>(weights + kOperandPacks * cut.weight_plane());
  float* of_df = of_in + 3 * kColumns;  // ratio, offset, unit
  float* norm_ends = of_df + 3 * kColumns;
  float* f_ends = norm_ends + 2 * kShares * kColumns;
  Ring ring{banded::shared_address(f_ends + kWarpgroup * kPack), cut.stages};

  __device__ __forceinline__ bool fills() const { return warpgroup == kNarrowWarpgroups; }
  __device__ __forceinline__ bool asks() const { return index == kNarrowWarpgroups * kWarpgroup; }
  __device__ __forceinline__ unsigned char* f_of(int which) const {
    return stages + which * cut.stage() + cut.blocks() * NarrowCut::block();
  }
  __device__ __forceinline__ uint32_t g_of(int which) const {
    return banded::shared_address(stages) + which * cut.stage();
  }
  __device__ __forceinline__ FoldedSink<T, Tiles> rest() const {
    return {sink, in, of_in, of_df, norm_ends, 0, kColumns, kShares};
  }

  // ---- the warpgroup that fills

  // Asks for G and x of a tile.
  __device__ __forceinline__ void request(int tile, int which, const NarrowMaps& maps) const {
    barrier_expect(ring.loaded(which), cut.stage());
    for (int b = 0; b < cut.blocks(); ++b)
      load_box(g_of(which) + b * NarrowCut::block(), &maps.g, b * kNarrowOuts, tile * kNarrowTile,
               ring.loaded(which));
    load_box(g_of(which) + cut.blocks() * NarrowCut::block(), &maps.x, 0, tile * kNarrowTile,
             ring.loaded(which));
  }
  // The block has `tiles` from `begin` on.
  __device__ __forceinline__ void ask(RingRequests& requests, int needed, int begin, int tiles,
                                      const NarrowMaps& maps) const {
    requests.ask(ring, needed, tiles, [&](int n, int which) { request(begin + n, which, maps); });
  }
  // x becomes f, zero beyond the ends, and is added to its sum: a thread has one pack of every
  // `apart`-th pixel, which lie in the same place of their rows.
  template <class Act>
  __device__ __forceinline__ void make_operand(int tile, int which, float (&sum)[kPack],
                                               Act activation) const {
    constexpr int kApart = kWarpgroup / kOperandPacks;
    const int me = index % kWarpgroup, pack = me % kOperandPacks, first = me / kOperandPacks;
    const int place = pack ^ (kRowBytes == 128 ? first % 8 : first / 2 % 4);
    float scale[kPack], shift[kPack];
    load_floats(scale, of_in + pack * kPack);
    load_floats(shift, of_in + kColumns + pack * kPack);
    unsigned char* const at = f_of(which) + first * kRowBytes + place * int{sizeof(Pack<T>)};
    const int end = pack * kPack < in.channels ? cut.pixels - tile * kNarrowTile : 0;
#pragma unroll 2
    for (int i = 0; i < kNarrowTile / kApart; ++i) {
      Pack<T>& here = *reinterpret_cast<Pack<T>*>(at + i * kApart * kRowBytes);
      float v[kPack];
      to_floats(v, load_vector<kPack>(&here.at[0]));
#pragma unroll
      for (int k = 0; k < kPack; ++k) v[k] = activation(fmaf(scale[k], v[k], shift[k])).h;
      const Pack<T> stored = first + i * kApart < end ? vector_of<T>(v) : Pack<T>{};
      store_vector(&here.at[0], stored);
      to_floats(v, stored);
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum[k] += v[k];
    }
  }
  // f · fᵀ of a tile.
  __device__ __forceinline__ void multiply_operand(float (&squares)[2 * Tiles][4], int which,
                                                   bool adds) const {
    const uint64_t of_f = rows_descriptor<kRowBytes>(banded::shared_address(f_of(which)));
    open_products();
#pragma unroll
    for (int i = 0; i < kNarrowTile / kWarpgroupDepth; ++i)
      multiply_async<T, Inner::positions, Inner::positions>(squares, of_f + i * kRowBytes,
                                                            of_f + i * kRowBytes, adds || i > 0);
    commit_products();
    wait_products<0>();
  }

  // Fills the stages with all tiles of the block.
  template <class Act>
  __device__ __forceinline__ void fill(RingRequests& requests, int begin, int tiles,
                                       const NarrowMaps& maps, Act activation) const {
    float squares[2 * Tiles][4], sum[kPack] = {};
    RingPlace place;
#pragma unroll 1
    for (int n = 0; n < tiles; ++n) {
      if (asks()) ask(requests, n, begin, tiles, maps);
      __syncwarp();
      barrier_wait(ring.loaded(place.stage), place.parity);
      make_operand(begin + n, place.stage, sum, activation);
      show_to_products();
      barrier_arrive(ring.full(place.stage));
      barrier_wait(ring.full(place.stage), place.parity);
      multiply_operand(squares, place.stage, n > 0);
      if (lane == 0) barrier_arrive(ring.empty(place.stage));
      place.advance(ring);
    }
    wait_products<0>();
    leave_products(squares, row_of_sums() + int64_t{dy.channels} * in.channels, 0, in.channels);
#pragma unroll
    for (int k = 0; k < kPack; ++k) f_ends[index % kWarpgroup * kPack + k] = sum[k];
  }

  // ---- the warpgroups that multiply

  // The thread's place: a set of channels, rows of df from `row` on, of which it has the two from
  // this one on, eight apart, and its first channel.
  __device__ __forceinline__ int set() const {
    return warpgroup % kNarrowSets;
  }
  __device__ __forceinline__ int row() const {
    return warpgroup / kNarrowSets * kNarrowProduct;
  }
  __device__ __forceinline__ int row_of_thread() const {
    return row() + warp * 16 + lane / 4;
  }
  __device__ __forceinline__ int column() const {
    return set() * kSet + lane % 4 * kOfThread;
  }

  // df (64 pixels, set), but for its unit.
  __device__ __forceinline__ void multiply_gradient(float (&df)[Tiles][4], int which) const {
    uint64_t b = planes_descriptor<Inner::positions>(
        banded::shared_address(weights + set() * Tiles * cut.weight_plane()), cut.weight_plane());
    asm volatile("" : "+l"(b));  // what is added to it would wait in registers from tile to tile
    const uint64_t of_f =
        rows_descriptor<kRowBytes>(banded::shared_address(f_of(which)) + row() * kRowBytes);
    open_products();
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int i = 0; i < kColumns / kWarpgroupDepth; ++i)
        multiply_async<T, Inner::channels, Inner::positions>(
            df, of_f + 2 * i, b + cut.depth + part * kColumns + i * kWarpgroupDepth,
            part > 0 || i > 0);
    commit_products();
    wait_products<0>();
    rest().scale(df, column());
    constexpr int kOfBlock = kNarrowOuts / kWarpgroupDepth;  // products
    const uint64_t of_g = rows_descriptor<kGradientBytes>(g_of(which) + row() * kGradientBytes);
    open_products();
#pragma unroll 4
    for (int i = 0; i < cut.depth / kWarpgroupDepth; ++i)
      multiply_async<T, Inner::channels, Inner::positions>(
          df, of_g + i / kOfBlock * (NarrowCut::block() / 16) + i % kOfBlock * 2,
          b + i * kWarpgroupDepth, true);
    commit_products();
  }
  // Begins G · fᵀ of a tile, of the warpgroup's channels of the output.
  __device__ __forceinline__ void multiply_weight(float (&dw)[2 * Tiles][4], int which,
                                                  bool adds) const {
    if (warpgroup < cut.blocks()) {
      const uint64_t of_g =
          rows_descriptor<kGradientBytes>(g_of(which) + warpgroup * NarrowCut::block());
      const uint64_t of_f = rows_descriptor<kRowBytes>(banded::shared_address(f_of(which)));
      open_products();
#pragma unroll
      for (int i = 0; i < kNarrowTile / kWarpgroupDepth; ++i)
        multiply_async<T, Inner::positions, Inner::positions>(dw, of_g + i * kGradientBytes,
                                                              of_f + i * kRowBytes, adds || i > 0);
    }
    commit_products();
  }

  // Multiplies all tiles of the block.
  template <class Act>
  __device__ __forceinline__ void multiply_all(int begin, int tiles, Act activation) const {
    float dw[2 * Tiles][4];
    const FoldedSink<T, Tiles> rest = this->rest();
    RingPlace place;
#pragma unroll 1
    for (int n = 0; n < tiles; ++n) {
      auto pair = rest.read(column(), (begin + n) * kNarrowTile + row_of_thread(), cut.pixels);
      barrier_wait(ring.full(place.stage), place.parity);
      float df[Tiles][4];
      multiply_gradient(df, place.stage);
      wait_products<0>();
      multiply_weight(dw, place.stage, n > 0);
      rest.finish(df, pair, column(), row_of_thread() / 16, lane, activation);
      wait_products<0>();
      if (lane == 0) barrier_arrive(ring.empty(place.stage));
      place.advance(ring);
    }
    leave_products(dw, row_of_sums(), warpgroup * kNarrowOuts, dy.channels);
  }

  // ---- what the block leaves

  // Its row of sums, (C' + C + 1, C).
  __device__ __forceinline__ float* row_of_sums() const {
    const int64_t row = (int64_t{dy.channels} + in.channels + 1) * in.channels;
    return from.rows ? from.rows + blockIdx.y * row : from.sums;
  }
  // 64 rows of products, from `first` on, of `rows`.
  __device__ __forceinline__ void leave_products(const float (&products)[2 * Tiles][4], float* to,
                                                 int first, int rows) const {
#pragma unroll
    for (int j = 0; j < 2 * Tiles; ++j)
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int r = first + warp * 16 + high * 8 + lane / 4, c = 8 * j + lane % 4 * 2;
        if (r < rows && c < in.channels)
          *reinterpret_cast<float2*>(to + int64_t{r} * in.channels + c) =
              make_float2(products[j][2 * high], products[j][2 * high + 1]);
      }
  }
  // Σ f, of what the threads that filled have left.
  __device__ __forceinline__ void leave_operand() const {
    if (index >= in.channels) return;
    float sum = 0;
    for (int i = 0; i < kWarpgroup / kOperandPacks; ++i) sum += f_ends[i * kColumns + index];
    row_of_sums()[(int64_t{dy.channels} + in.channels) * in.channels + index] = sum;
  }
};

template <class T, int Tiles>
__device__ __forceinline__ void run_narrow(const GradientSink<T>& sink, const GradientView<T>& dy,
                                           const OperandView<T>& in, const FoldedMemory<T>& memory,
                                           const Partials& partials, const NarrowCut& cut,
                                           const NarrowMaps& maps) {
  const NarrowKernel<T, Tiles> k{sink, dy, in, memory, cut};
  const int begin = blockIdx.y * cut.per, tiles = min(cut.per, cut.tiles - begin);
  RingRequests requests;
  if (k.asks()) {
    k.ring.prepare(kWarpgroup, (kNarrowWarpgroups + 1) * kWarpgroup / kWarp);
    // The launch ahead folds weights: G and x are older.
    k.ask(requests, 0, begin, tiles, maps);
  }
  follow();
  k.rest().stage(k.weights, cut.weight_plane(), cut.depth, k.kColumns, memory, dy.channels, k.index,
                 kNarrowThreads);
  show_to_products();
  __syncthreads();
  visit_through(in.act, [&](auto activation) {
    if (k.fills())
      k.fill(requests, begin, tiles, maps, activation);
    else
      k.multiply_all(begin, tiles, activation);
  });
  __syncthreads();
  k.leave_operand();
  if (!takes_sums(sink)) return;
  leave_norm_sums(partials.rows, k.norm_ends, k.kShares, k.kColumns, 0, in, k.index,
                  kNarrowThreads);
  finish_norm_sums(sink, in, partials,
                   *reinterpret_cast<SumBuffer<4, kNarrowThreads>*>(dynamic_shared));
}

template <class T, int Tiles>
__global__ void __launch_bounds__(kNarrowThreads, 1)
    narrow_kernel(const __grid_constant__ GradientSink<T> sink,
                  const __grid_constant__ GradientView<T> dy,
                  const __grid_constant__ OperandView<T> in,
                  const __grid_constant__ FoldedMemory<T> memory, Partials partials,
                  const __grid_constant__ NarrowCut cut, const __grid_constant__ NarrowMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  run_narrow<T, Tiles>(sink, dy, in, memory, partials, cut, maps);
#endif
}

}  // namespace

template <class T>
Enqueue PointwiseNarrow<T>::prepare(const GradientSink<T>& sink, float* dweight,
                                    const GradientView<T>& dy, const OperandView<T>& in,
                                    const T* weight, float* scratch, const Partials& partials) {
  const NarrowCut cut = narrow_cut(in.pixels(), in.channels, dy.channels, device_limits());
  const FoldedScratch sizes = narrow_scratch(cut, in.channels, dy.channels);
  const FoldedMemory<T> memory(scratch, sizes, in.channels);
  auto* const kernel = cut.columns <= 32 ? narrow_kernel<T, 2> : narrow_kernel<T, 4>;
  NarrowMaps maps;
  if (!multiplies_here(kernel, cut.shared) ||
      !describe(maps.g,
                boxed_rows(dy.grad, cut.pixels, dy.channels, dy.pitch, kNarrowOuts, kNarrowTile)) ||
      !describe(maps.x,
                boxed_rows(in.x, cut.pixels, in.channels, in.pitch, cut.columns, kNarrowTile)))
    return {};
  return [=](cudaStream_t stream) {
    const int channels = in.channels;
    fold_weights(memory, dy, weight, channels, stream);
    const int lanes = cut.columns / 4;
    launch(kernel, dim3(1, cut.units), dim3(lanes, kNarrowThreads / lanes), cut.shared, stream,
           sink, dy, in, memory, partials, cut, maps);
    if (cut.units > 1) merge_rows(memory.sums, memory.rows, cut.units, sizes.sums, stream);
    finish_weight(dweight, memory, dy, weight, channels, stream);
  };
}

template struct PointwiseNarrow<__half>;
template struct PointwiseNarrow<__nv_bfloat16>;

}  // namespace engine::kernels

// Pointwise convolution, both gradients at once from (G_y, f), where the operand is narrower than
// the output, whose norm needs nothing of the output itself (kernels/gemm/folded.cuh).
//
// One warpgroup fills stages: it asks the copy engine for G, which goes to the matrix unit as it
// is, and for x, of which it makes f in place, and holds f · fᵀ and Σ f. Each of the four others
// makes df of 64 pixels of a tile for a set of channels, and holds G · fᵀ of 64 channels of the
// output.
// For each pixel it moves, in values of T, C' (G_y), C for each of x and G, and C more for an old
// G. The rows of sums are 4 bytes for each of (C' + C)·C and unit, written and read.
#include "kernels/barrier.cuh"
#include "kernels/copies.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/folded.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/merge_rows.cuh"
#include "kernels/narrow_tiles.h"
#include "kernels/packs.cuh"
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
  static constexpr int kOfThread = 2 * Tiles;  // channels of a thread, in two rows of df
  static constexpr int kHalves = kOfThread / kHalfPack;
  static constexpr int kShares = kNarrowTile / 16;  // warps of a set

  const GradientSink<T>& sink;
  const GradientView<T>& dy;
  const OperandView<T>& in;
  const NarrowMemory<T>& from;
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
  uint32_t barriers = banded::shared_address(f_ends + kWarpgroup * kPack);

  __device__ __forceinline__ bool fills() const { return warpgroup == kNarrowWarpgroups; }
  __device__ __forceinline__ unsigned char* f_of(int which) const {
    return stages + which * cut.stage() + cut.blocks() * NarrowCut::block();
  }
  __device__ __forceinline__ uint32_t g_of(int which) const {
    return banded::shared_address(stages) + which * cut.stage();
  }
  // Where copies of a stage arrive; and then its f, and then those who have done with it.
  __device__ __forceinline__ uint32_t loaded(int which) const { return barriers + 8 * which; }
  __device__ __forceinline__ uint32_t full(int which) const {
    return loaded(kNarrowMostStages + which);
  }
  __device__ __forceinline__ uint32_t empty(int which) const {
    return loaded(2 * kNarrowMostStages + which);
  }

  // weights (packs of channels, rows) = the folded ones, zero beyond the ends; and the rest that
  // does not change.
  __device__ __forceinline__ void prepare() const {
    const int rows = cut.depth + 2 * kColumns;
    for (int i = index; i < kNarrowSets * rows; i += kNarrowThreads) {
      const int r = i / kNarrowSets, s = i % kNarrowSets, of_f = r - cut.depth;
      const int k = of_f < 0 ? r : of_f % kColumns, end = of_f < 0 ? dy.channels : in.channels;
      const int o = of_f < 0 ? r : dy.channels + of_f / kColumns * in.channels + k;
      Pack<T> packs_of[Tiles];
#pragma unroll
      for (int p = 0; p < Tiles; ++p) {
        const int c = s * kSet + p * kPack;
        const bool has = k < end && c < in.channels;
        packs_of[p] = load_if(has, from.folded + (has ? int64_t{o} * in.channels + c : 0));
      }
      store_columns(weights + s * Tiles * cut.weight_plane() + r, cut.weight_plane(), packs_of);
    }
    for (int k = index; k < kColumns; k += kNarrowThreads) {
      stage_operand(of_in, kColumns, k, in, k);
      of_df[k] = k < in.channels ? from.ratio[k] : 0;
      of_df[kColumns + k] = k < in.channels ? from.offset[k] : 0;
      of_df[2 * kColumns + k] = k < in.channels ? from.unit[k] : 0;
    }
    for (int i = index; i < 2 * kShares * kColumns; i += kNarrowThreads) norm_ends[i] = 0;
  }
  __device__ __forceinline__ void prepare_barriers() const {
    for (int i = 0; i < cut.stages; ++i) {
      barrier_init(loaded(i), 1);
      barrier_init(full(i), kWarpgroup);
      barrier_init(empty(i), kNarrowWarpgroups * kWarpgroup / kWarp);
    }
  }

  // ---- the warpgroup that fills

  // Asks for G and x of a tile.
  __device__ __forceinline__ void request(int tile, int which, const NarrowMaps& maps) const {
    barrier_expect(loaded(which), cut.stage());
    for (int b = 0; b < cut.blocks(); ++b)
      load_box(g_of(which) + b * NarrowCut::block(), &maps.g, b * kNarrowOuts, tile * kNarrowTile,
               loaded(which));
    load_box(g_of(which) + cut.blocks() * NarrowCut::block(), &maps.x, 0, tile * kNarrowTile,
             loaded(which));
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

  // Fills the stages with all tiles of the block, of which those of all but one were asked for.
  template <class Act>
  __device__ __forceinline__ void fill(int begin, int end, const NarrowMaps& maps,
                                       Act activation) const {
    float squares[2 * Tiles][4], sum[kPack] = {};
    int which = 0, parity = 0, before = cut.stages - 1, parity_before = 0;
    for (int tile = begin; tile < end; ++tile) {
      barrier_wait(loaded(which), parity);
      make_operand(tile, which, sum, activation);
      show_to_products();
      barrier_arrive(full(which));
      barrier_wait(full(which), parity);
      multiply_operand(squares, which, tile > begin);
      const int next = tile + cut.stages - 1;
      if (index % kWarpgroup == 0 && next < end) {
        if (tile > begin) barrier_wait(empty(before), parity_before);
        request(next, before, maps);
      }
      __syncwarp();
      before = which;
      parity_before = parity;
      if (++which == cut.stages) which = 0, parity ^= 1;
    }
    wait_products<0>();
    leave_products(squares, row_of_sums() + int64_t{dy.channels} * in.channels, 0, in.channels);
#pragma unroll
    for (int k = 0; k < kPack; ++k) f_ends[index % kWarpgroup * kPack + k] = sum[k];
  }

  // ---- the warpgroups that multiply

  // A thread's channels of one row in registers, four in each: their elements would take one each.
  struct Channels {
    uint2 part[kHalves];
  };
  __device__ __forceinline__ static void load(Channels& channels, const T* at) {
    if constexpr (kHalves == 2) {
      const uint4 words = *reinterpret_cast<const uint4*>(at);
      channels = {make_uint2(words.x, words.y), make_uint2(words.z, words.w)};
    } else {
      channels.part[0] = *reinterpret_cast<const uint2*>(at);
    }
  }
  __device__ __forceinline__ static void store(T* at, const Channels& channels) {
    const uint2 first = channels.part[0], last = channels.part[kHalves - 1];
    if constexpr (kHalves == 2)
      *reinterpret_cast<uint4*>(at) = make_uint4(first.x, first.y, last.x, last.y);
    else
      *reinterpret_cast<uint2*>(at) = first;
  }
  template <class To>
  __device__ __forceinline__ static void to_half(To& out, const uint2& half) {
    to_floats(out, reinterpret_cast<const Vector<T, kHalfPack>&>(half));
  }

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
#pragma unroll
    for (int part = 0; part < kHalves; ++part) {
      float ratio[kHalfPack], offset[kHalfPack];
      load_floats(ratio, of_df + column() + part * kHalfPack);
      load_floats(offset, of_df + kColumns + column() + part * kHalfPack);
#pragma unroll
      for (int k = 0; k < kHalfPack; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int of_thread = part * kHalfPack + k;
          float& value = df[of_thread / 2][2 * half + of_thread % 2];
          value = fmaf(ratio[k], value, offset[k]);
        }
    }
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

  // Four of the thread's channels, of both of its rows: back through activation and norm, added to
  // what was there. The norm's sums of the warp's rows are added to what it has in shared memory,
  // for in registers they would push the products out.
  template <class Act>
  __device__ __forceinline__ void finish(const float (&all)[Tiles][4], int part,
                                         const bool (&has)[2], const Channels (&x)[2],
                                         Channels (&grad)[2], Act activation) const {
    const int c = column() + part * kHalfPack;
    const OperandConstants<kHalfPack> of(of_in, kColumns, c);
    float unit[kHalfPack];
    load_floats(unit, of_df + 2 * kColumns + c);
    SinkSums<kHalfPack> sums;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float df[kHalfPack], at_x[kHalfPack], old[kHalfPack], value[kHalfPack], h[kHalfPack];
      to_half(at_x, x[half].part[part]);
      to_half(old, grad[half].part[part]);
#pragma unroll
      for (int k = 0; k < kHalfPack; ++k) {
        const int of_thread = part * kHalfPack + k;
        df[k] = has[half] ? unit[k] * all[of_thread / 2][2 * half + of_thread % 2] : 0.f;
      }
      sums.take(value, h, df, at_x, old, of, activation);
      const Vector<T, kHalfPack> rounded = vector_of<T>(value);
      grad[half].part[part] = reinterpret_cast<const uint2&>(rounded);
    }
    ProductSums{norm_ends, nullptr, kShares, kColumns}.fold_two(lane / 4, row_of_thread() / 16, c,
                                                                sums.t, sums.t_centred);
  }

  // Multiplies all tiles of the block.
  template <class Act>
  __device__ __forceinline__ void multiply_all(int begin, int end, Act activation) const {
    float dw[2 * Tiles][4];
    const bool mine = column() < in.channels, reads_x = mine && !in.plain(),
               adds = mine && sink.grad && sink.how == Write::add;
    int which = 0, parity = 0;
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      barrier_wait(full(which), parity);
      float df[Tiles][4];
      multiply_gradient(df, which);
      const int pixel = tile * kNarrowTile + row_of_thread();
      const bool has[2] = {pixel < cut.pixels, pixel + 8 < cut.pixels};
      Channels x[2] = {}, grad[2] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (!has[half]) continue;
        if (reads_x) load(x[half], row_at(in.x + column(), pixel + 8 * half, in.pitch));
        if (adds) load(grad[half], row_at(sink.grad + column(), pixel + 8 * half, sink.pitch));
      }
      wait_products<0>();
      multiply_weight(dw, which, tile > begin);
#pragma unroll
      for (int part = 0; part < kHalves; ++part) finish(df, part, has, x, grad, activation);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (has[half] && mine && sink.grad)
          store(row_at(sink.grad + column(), pixel + 8 * half, sink.pitch), grad[half]);
      wait_products<0>();
      if (lane == 0) barrier_arrive(empty(which));
      if (++which == cut.stages) which = 0, parity ^= 1;
    }
    leave_products(dw, row_of_sums(), warpgroup * kNarrowOuts, dy.channels);
  }

  // ---- what the block leaves

  // Its row of sums, (C' + C + 1, C).
  __device__ __forceinline__ float* row_of_sums() const {
    return from.rows + blockIdx.y * (int64_t{dy.channels} + in.channels + 1) * in.channels;
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
                                           const OperandView<T>& in, const NarrowMemory<T>& memory,
                                           const Partials& partials, const NarrowCut& cut,
                                           const NarrowMaps& maps) {
  const NarrowKernel<T, Tiles> k{sink, dy, in, memory, cut};
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles);
  if (k.fills() && k.index % kWarpgroup == 0) {
    k.prepare_barriers();
    // The launch ahead folds weights: G and x are older.
    for (int i = 0; i + 1 < cut.stages && begin + i < end; ++i) k.request(begin + i, i, maps);
  }
  follow();
  k.prepare();
  show_to_products();
  __syncthreads();
  const auto run = [&](auto activation) {
    if (k.fills())
      k.fill(begin, end, maps, activation);
    else
      k.multiply_all(begin, end, activation);
  };
  if (in.act == Activation::silu)
    run(Through<Activation::silu>{});
  else if (in.act == Activation::relu)
    run(Through<Activation::relu>{});
  else
    run(ThroughAny{in.act});
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
                  const __grid_constant__ NarrowMemory<T> memory, Partials partials,
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
  const NarrowScratch sizes = narrow_scratch(cut, in.channels, dy.channels);
  const NarrowMemory<T> memory(scratch, sizes, in.channels);
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

// Pointwise convolution, the operand's gradient from (G_y, f), where the output has a norm, which
// needs nothing of the output itself (kernels/gemm/folded.cuh); with Σ f, and f, if wanted, for the
// products of the weight's gradient.
//
// The folded weights of a group of 64 channels of the operand stay in shared memory. Chunks of 64
// channels of 128 pixels come into a ring of stages: of x, of which one warpgroup makes f in place,
// and then of G, which goes to the matrix unit as it is. Each of the four others makes df of 64
// pixels for half of the group's channels, and stores it while the next chunks arrive.
// For each pixel it moves, in values of T, C' (G_y), C for each of x and G, C more for an old G,
// and for f. Each group reads G_y and x again, from L2.
#include "kernels/copies.cuh"
#include "kernels/folded_tiles.h"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/folded.cuh"
#include "kernels/gemm/folded_sink.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/merge_rows.cuh"
#include "kernels/packs.cuh"
#include "kernels/ring.cuh"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {
namespace {

// x (pixels, C) and G (pixels, C'), 64 channels at a time.
struct FoldedMaps {
  CUtensorMap x, g;
};

template <class T>
struct FoldedKernel {
  static constexpr int kTiles = 4, kSet = 8 * kTiles;  // channels of a warpgroup
  static constexpr int kRowBytes = 2 * kFoldedChunk;
  static constexpr int kPacks = kFoldedChunk / kPack;

  const GradientSink<T>& sink;
  T* const f;  // (pixels, C), or null
  const GradientView<T>& dy;
  const OperandView<T>& in;
  const FoldedMemory<T>& from;
  const FoldedCut& cut;
  int index = threadIdx.y * blockDim.x + threadIdx.x, lane = index % kWarp;
  int warp = index / kWarp % (kWarpgroup / kWarp);  // of the warpgroup
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  int first = blockIdx.x * kFoldedColumns;  // channel of the group
  // The shared memory: stages, folded weights, constants of the group's channels and, to make f, of
  // all; what is left at the end; whether stages are loaded, full, and empty.
  unsigned char* stages =
      dynamic_shared + (-banded::shared_address(dynamic_shared) & (kFoldedAlignment - 1));
  Pack<T>* weights = reinterpret_cast<Pack<T>*>(stages + cut.stages * FoldedCut::stage());
  float* of_in = reinterpret_cast<float*>(weights + kFoldedColumns / kPack * cut.weight_plane());
  float* of_df = of_in + 3 * kFoldedColumns;
  float* norm_ends = of_df + 3 * kFoldedColumns;
  float* scale = norm_ends + 2 * kFoldedShares * kFoldedColumns;
  float* shift = scale + cut.operands();
  float* f_ends = shift + cut.operands();  // (chunks of f, threads that fill, kPack)
  Ring ring{banded::shared_address(f_ends + cut.of_f * kWarpgroup * kPack), cut.stages};

  __device__ __forceinline__ bool multiplies() const {
    return warpgroup < kFoldedMultiplying / kWarpgroup;
  }
  __device__ __forceinline__ bool asks() const { return index == kFoldedMultiplying; }
  __device__ __forceinline__ unsigned char* stage(int which) const {
    return stages + which * FoldedCut::stage();
  }
  __device__ __forceinline__ FoldedSink<T, kTiles> rest() const {
    return {sink, in, of_in, of_df, norm_ends, first, kFoldedColumns, kFoldedShares};
  }

  __device__ __forceinline__ void stage_constants() const {
    for (int c = index; c < cut.operands(); c += kFoldedThreads) {
      const Folded folded =
          c < in.channels ? fold_norm(in.norm.channel(c), in.act) : Folded{0.f, 0.f};
      scale[c] = folded.scale;
      shift[c] = folded.shift;
    }
    for (int i = index; i < cut.of_f * kWarpgroup * kPack; i += kFoldedThreads) f_ends[i] = 0;
  }

  // ---- the warpgroup that fills

  // Asks for chunk n of the block, which begins with tile `begin`.
  __device__ __forceinline__ void request(int begin, int n, int which,
                                          const FoldedMaps& maps) const {
    const int chunk = n % cut.chunks(), pixel = (begin + n / cut.chunks()) * kFoldedTile;
    const bool of_f = chunk < cut.of_f;
    barrier_expect(ring.loaded(which), FoldedCut::stage());
    load_box(banded::shared_address(stage(which)), of_f ? &maps.x : &maps.g,
             (of_f ? chunk : chunk - cut.of_f) * kFoldedChunk, pixel, ring.loaded(which));
  }
  __device__ __forceinline__ void ask(RingRequests& requests, int needed, int begin, int chunks,
                                      const FoldedMaps& maps) const {
    requests.ask(ring, needed, chunks, [&](int n, int which) { request(begin, n, which, maps); });
  }

  // x becomes f, zero beyond the ends, and is added to its sum: a thread has one pack of every
  // sixteenth pixel, which lie in the same place of their rows.
  template <class Act>
  __device__ __forceinline__ void make_operand(int tile, int chunk, int which,
                                               Act activation) const {
    constexpr int kApart = kWarpgroup / kPacks;
    const int me = index % kWarpgroup, pack = me % kPacks, row = me / kPacks;
    const int c = chunk * kFoldedChunk + pack * kPack, pixel = tile * kFoldedTile + row;
    float a[kPack], b[kPack], sum[kPack];
    float* const ends = f_ends + (chunk * kWarpgroup + me) * kPack;
    load_floats(a, scale + c);
    load_floats(b, shift + c);
    load_floats(sum, ends);
    unsigned char* const at = stage(which) + row * kRowBytes + (pack ^ row % 8) * sizeof(Pack<T>);
    const int end = c < in.channels ? cut.pixels : 0;
    T* const leaves = f && first == 0 ? f + c : nullptr;
#pragma unroll 2
    for (int i = 0; i < kFoldedTile / kApart; ++i) {
      Pack<T>& here = *reinterpret_cast<Pack<T>*>(at + i * kApart * kRowBytes);
      const bool has = pixel + i * kApart < end;
      float v[kPack];
      to_floats(v, load_vector<kPack>(&here.at[0]));
#pragma unroll
      for (int k = 0; k < kPack; ++k) v[k] = activation(fmaf(a[k], v[k], b[k])).h;
      const Pack<T> stored = has ? vector_of<T>(v) : Pack<T>{};
      store_vector(&here.at[0], stored);
      if (leaves && has) store_vector(row_at(leaves, pixel + i * kApart, in.channels), stored);
      to_floats(v, stored);
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < kPack; ++k) ends[k] = sum[k];
  }

  // Fills the stages with all chunks of the block.
  template <class Act>
  __device__ __forceinline__ void fill(RingRequests& requests, int begin, int chunks,
                                       const FoldedMaps& maps, Act activation) const {
    RingPlace place;
#pragma unroll 1
    for (int n = 0; n < chunks; ++n) {
      if (asks()) ask(requests, n, begin, chunks, maps);
      __syncwarp();
      barrier_wait(ring.loaded(place.stage), place.parity);
      const int chunk = n % cut.chunks();
      if (chunk < cut.of_f) {
        make_operand(begin + n / cut.chunks(), chunk, place.stage, activation);
        show_to_products();
      }
      barrier_arrive(ring.full(place.stage));
      place.advance(ring);
    }
  }

  // ---- the warpgroups that multiply

  __device__ __forceinline__ int set() const {
    return warpgroup % 2;
  }
  __device__ __forceinline__ int row() const {
    return warpgroup / 2 * 64;
  }
  __device__ __forceinline__ int row_of_thread() const {
    return row() + warp * 16 + lane / 4;
  }
  __device__ __forceinline__ int column() const {
    return set() * kSet + lane % 4 * FoldedSink<T, kTiles>::kOfThread;
  }

  // The warpgroup's rows of a stage, and its weights.
  __device__ __forceinline__ uint64_t rows_of(int which) const {
    return rows_descriptor<kRowBytes>(banded::shared_address(stage(which)) + row() * kRowBytes);
  }
  __device__ __forceinline__ uint64_t weights_of() const {
    uint64_t b = planes_descriptor<Inner::positions>(
        banded::shared_address(weights + set() * kTiles * cut.weight_plane()), cut.weight_plane());
    asm volatile("" : "+l"(b));  // what is added to it would wait in registers from tile to tile
    return b;
  }

  // df of a chunk of f, by weights in two parts.
  __device__ __forceinline__ void multiply_operand(float (&df)[kTiles][4], uint64_t b, int chunk,
                                                   int which) const {
    const uint64_t a = rows_of(which);
    open_products();
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int i = 0; i < kFoldedChunk / kWarpgroupDepth; ++i)
        multiply_async<T, Inner::channels, Inner::positions>(
            df, a + 2 * i,
            b + cut.depth() + part * cut.operands() + chunk * kFoldedChunk + i * kWarpgroupDepth,
            chunk > 0 || part > 0 || i > 0);
    commit_products();
    wait_products<0>();
  }
  // df of a chunk of G.
  __device__ __forceinline__ void multiply_gradient(float (&df)[kTiles][4], uint64_t b, int chunk,
                                                    int which) const {
    const uint64_t a = rows_of(which);
    open_products();
#pragma unroll
    for (int i = 0; i < kFoldedChunk / kWarpgroupDepth; ++i)
      multiply_async<T, Inner::channels, Inner::positions>(
          df, a + 2 * i, b + chunk * kFoldedChunk + i * kWarpgroupDepth, true);
    commit_products();
    wait_products<0>();
  }

  // Multiplies all tiles of the block.
  template <class Act>
  __device__ __forceinline__ void multiply_all(int begin, int end, Act activation) const {
    const FoldedSink<T, kTiles> rest = this->rest();
    RingPlace place;
    const auto next = [&] { barrier_wait(ring.full(place.stage), place.parity); };
    const auto done = [&] {
      if (lane == 0) barrier_arrive(ring.empty(place.stage));
      place.advance(ring);
    };
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      const uint64_t b = weights_of();
      float df[kTiles][4];
#pragma unroll 1
      for (int chunk = 0; chunk < cut.of_f; ++chunk) {
        next();
        multiply_operand(df, b, chunk, place.stage);
        done();
      }
      rest.scale(df, column());
      auto pair = rest.read(column(), tile * kFoldedTile + row_of_thread(), cut.pixels);
#pragma unroll 1
      for (int chunk = 0; chunk < cut.of_g; ++chunk) {
        next();
        multiply_gradient(df, b, chunk, place.stage);
        done();
      }
      rest.finish(df, pair, column(), row_of_thread() / 16, lane, activation);
    }
  }

  // ---- what the block leaves

  // The first group's Σ f, of what the threads that filled have left.
  __device__ __forceinline__ void leave_operand() const {
    if (first > 0) return;
    const int64_t before = (int64_t{dy.channels} + in.channels) * in.channels;
    float* const to =
        from.rows ? from.rows + blockIdx.y * int64_t{in.channels} : from.sums + before;
    for (int c = index; c < in.channels; c += kFoldedThreads) {
      const float* const ends = f_ends + c / kFoldedChunk * (kWarpgroup * kPack) + c % kFoldedChunk;
      float sum = 0;
      for (int i = 0; i < kWarpgroup / kPacks; ++i) sum += ends[i * kFoldedChunk];
      to[c] = sum;
    }
  }
};

template <class T>
__device__ __forceinline__ void run_folded(const GradientSink<T>& sink, T* f,
                                           const GradientView<T>& dy, const OperandView<T>& in,
                                           const FoldedMemory<T>& memory, const Partials& partials,
                                           const FoldedCut& cut, const FoldedMaps& maps) {
  const FoldedKernel<T> k{sink, f, dy, in, memory, cut};
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles),
            chunks = (end - begin) * cut.chunks();
  RingRequests requests;
  if (k.asks()) {
    k.ring.prepare(kWarpgroup, kFoldedMultiplying / kWarp);
    // The launch ahead folds weights: G and x are older.
    k.ask(requests, 0, begin, chunks, maps);
  }
  follow();
  k.rest().stage(k.weights, cut.weight_plane(), cut.depth(), cut.operands(), memory, dy.channels,
                 k.index, kFoldedThreads);
  k.stage_constants();
  show_to_products();
  __syncthreads();
  visit_through(in.act, [&](auto activation) {
    if (k.multiplies())
      k.multiply_all(begin, end, activation);
    else
      k.fill(requests, begin, chunks, maps, activation);
  });
  __syncthreads();
  k.leave_operand();
  if (!takes_sums(sink)) return;
  leave_norm_sums(partials.rows, k.norm_ends, kFoldedShares, kFoldedColumns, k.first, in, k.index,
                  kFoldedThreads);
  finish_norm_sums(sink, in, partials,
                   *reinterpret_cast<SumBuffer<4, kFoldedThreads>*>(dynamic_shared));
}

template <class T>
__global__ void __launch_bounds__(kFoldedThreads, 1)
    folded_kernel(const __grid_constant__ GradientSink<T> sink, T* f,
                  const __grid_constant__ GradientView<T> dy,
                  const __grid_constant__ OperandView<T> in,
                  const __grid_constant__ FoldedMemory<T> memory, Partials partials,
                  const __grid_constant__ FoldedCut cut, const __grid_constant__ FoldedMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  run_folded<T>(sink, f, dy, in, memory, partials, cut, maps);
#endif
}

}  // namespace

template <class T>
Enqueue PointwiseFolded<T>::prepare(const GradientSink<T>& sink, T* f, const GradientView<T>& dy,
                                    const OperandView<T>& in, const T* weight, float* scratch,
                                    const Partials& partials) {
  const FoldedCut cut = folded_cut(in.pixels(), in.channels, dy.channels, device_limits());
  const FoldedMemory<T> memory(scratch, folded_scratch(cut, in.channels, dy.channels), in.channels);
  FoldedMaps maps;
  const auto rows = [&](const T* data, int channels, int pitch) {
    return boxed_rows(data, cut.pixels, channels, pitch, kFoldedChunk, kFoldedTile);
  };
  if (!multiplies_here(folded_kernel<T>, cut.shared) ||
      !describe(maps.x, rows(in.x, in.channels, in.pitch)) ||
      !describe(maps.g, rows(dy.grad, dy.channels, dy.pitch)))
    return {};
  return [=](cudaStream_t stream) {
    fold_weights(memory, dy, weight, in.channels, stream);
    launch(folded_kernel<T>, dim3(cut.groups, cut.units),
           dim3(kFoldedColumns / 4, kFoldedThreads / (kFoldedColumns / 4)), cut.shared, stream,
           sink, f, dy, in, memory, partials, cut, maps);
    if (memory.rows)
      merge_rows(memory.sums + (int64_t{dy.channels} + in.channels) * in.channels, memory.rows,
                 cut.units, in.channels, stream);
  };
}

template <class T>
void PointwiseFolded<T>::finish(float* dweight, const GradientView<T>& dy, const T* weight,
                                int channels, const FoldedScratch& sizes, float* scratch,
                                cudaStream_t stream) {
  finish_weight(dweight, FoldedMemory<T>(scratch, sizes, channels), dy, weight, channels, stream);
}

template struct PointwiseFolded<__half>;
template struct PointwiseFolded<__nv_bfloat16>;

}  // namespace engine::kernels

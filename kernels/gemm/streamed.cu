// Pointwise convolution, forward, of an operand that the copy engine brings: y = W · f(x), with the
// statistics of y. It moves C + C' values of T for each pixel; where the output is cut into groups,
// each reads the operand again, from L2.
//
// The weights of a group of channels stay in shared memory. Chunks of 64 channels of 128 pixels
// come into a ring of stages, in rows of 128 bytes as the matrix unit wants them; warpgroups that
// multiply nothing make f of them in place, unless the operand is plain. Each of four warpgroups
// multiplies 64 pixels by half of the group's channels, stores them and takes their statistics,
// while the next chunks arrive.
#include "kernels/copies.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/packs.cuh"
#include "kernels/ring.cuh"
#include "kernels/streamed_tiles.h"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {
namespace {

template <class T, int Sets>
struct StreamedKernel {
  static constexpr int kFilling = streamed_filling(Sets), kThreads = streamed_threads(Sets);
  static constexpr int kColumns = 64 * Sets, kOfWarpgroup = 32 * Sets;  // channels
  static constexpr int kRowBytes = 2 * kStreamedChunk;
  static constexpr int kPacks = kStreamedChunk / kPack;

  // Results of 64 pixels and the warpgroup's channels: of 64, and of 32 that are left.
  struct Results {
    float wide[Sets / 2 > 0 ? Sets / 2 : 1][8][4];
    float last[4][4];

    // Four neighbouring channels of a thread, in part `part` of set `set` of 32, and one of its two
    // rows.
    __device__ __forceinline__ void quad(float (&value)[kHalfPack], int set, int part,
                                         int half) const {
#pragma unroll
      for (int k = 0; k < kHalfPack; ++k) {
        const int tile = part * 2 + k / 2, at = 2 * half + k % 2;
        value[k] = set < Sets / 2 * 2
                       ? wide[set / 2 % (Sets / 2 > 0 ? Sets / 2 : 1)][set % 2 * 4 + tile][at]
                       : last[tile][at];
      }
    }
  };

  const SliceView<T>& out;
  const OperandView<T>& in;
  const StreamedCut& cut;
  int index = threadIdx.y * blockDim.x + threadIdx.x, lane = index % kWarp;
  int warp = index / kWarp % (kWarpgroup / kWarp);  // of the warpgroup
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  int first = blockIdx.x * kColumns;  // channel of the group
  // The shared memory: stages, weights of the chunks, constants of the operand, statistics, the
  // pixels that each warp met; whether stages are loaded, full, and empty.
  unsigned char* stages =
      dynamic_shared + (-banded::shared_address(dynamic_shared) & (kStreamedAlignment - 1));
  unsigned char* weights = stages + cut.stages * StreamedCut::stage();
  float* scale = reinterpret_cast<float*>(weights + cut.chunks * cut.weights());
  float* shift = scale + cut.chunks * kStreamedChunk;
  float* statistics = shift + cut.chunks * kStreamedChunk;
  ProductSums sums{statistics, statistics + 3 * kStreamedShares* kColumns, kStreamedShares,
                   kColumns};
  Ring ring{banded::shared_address(sums.met + kStreamedShares), cut.stages};

  __device__ __forceinline__ bool asks() const {
    return index == kStreamedMultiplying;
  }
  __device__ __forceinline__ bool multiplies() const {
    return warpgroup < kStreamedMultiplying / kWarpgroup;
  }
  __device__ __forceinline__ unsigned char* stage(int which) const {
    return stages + which * StreamedCut::stage();
  }
  // The weights, in the rows of each chunk, zero beyond the ends: column 2t + e of tile j of a set
  // of 32 is channel 8t + 2j + e, so that a thread makes eight neighbouring ones.
  __device__ __forceinline__ void stage_weights(const T* __restrict__ weight) const {
    for (int i = index; i < cut.chunks * kColumns * kPacks; i += kThreads) {
      const int pack = i % kPacks, r = i / kPacks % kColumns, chunk = i / (kPacks * kColumns);
      const int o = first + r / 32 * 32 + r % 8 / 2 * 8 + r % 32 / 8 * 2 + r % 2,
                c = chunk * kStreamedChunk + pack * kPack;
      const bool has = o < out.channels && c < in.channels;
      const Pack<T> value = load_if(has, weight + (has ? int64_t{o} * in.channels + c : 0));
      unsigned char* const row = weights + chunk * cut.weights() + r * kRowBytes;
      store_vector(&reinterpret_cast<Pack<T>*>(row)[pack ^ r % 8].at[0], value);
    }
  }
  __device__ __forceinline__ void stage_constants() const {
    for (int c = index; c < cut.chunks * kStreamedChunk; c += kThreads) {
      const Folded folded =
          c < in.channels ? fold_norm(in.norm.channel(c), in.act) : Folded{0.f, 0.f};
      scale[c] = folded.scale;
      shift[c] = folded.shift;
    }
    for (int i = index; i < 3 * kStreamedShares * kColumns; i += kThreads) statistics[i] = 0;
  }

  // ---- those who fill

  // Asks for chunk n of the block, which begins with tile `begin`.
  __device__ __forceinline__ void request(int begin, int n, int which,
                                          const CUtensorMap& map) const {
    barrier_expect(ring.loaded(which), StreamedCut::stage());
    load_box(banded::shared_address(stage(which)), &map, n % cut.chunks * kStreamedChunk,
             (begin + n / cut.chunks) * kStreamedTile, ring.loaded(which));
  }
  __device__ __forceinline__ void ask(RingRequests& requests, int needed, int begin, int chunks,
                                      const CUtensorMap& map) const {
    requests.ask(ring, needed, chunks, [&](int n, int which) { request(begin, n, which, map); });
  }

  // x becomes f: a warpgroup that fills takes its share of the pixels, a thread one pack of every
  // sixteenth of those, which lie in the same place of their rows. `Gated`: times the gate of its
  // image.
  template <bool Gated, class Act>
  __device__ __forceinline__ void make_operand(int tile, int chunk, int which,
                                               Act activation) const {
    constexpr int kApart = kWarpgroup / kPacks;
    const int me = index % kWarpgroup, pack = me % kPacks, row = me / kPacks;
    const int c = chunk * kStreamedChunk + pack * kPack;
    float a[kPack], b[kPack];
    load_floats(a, scale + c);
    load_floats(b, shift + c);
    unsigned char* const at = stage(which) + row * kRowBytes + (pack ^ row % 8) * sizeof(Pack<T>);
    const auto make = [&](int from, int to, const float* gates) {
      float gate[kPack];
      if constexpr (Gated) load_floats(gate, gates + (c < in.channels ? c : 0));
#pragma unroll 2
      for (int i = from; i < to; ++i) {
        Pack<T>& here = *reinterpret_cast<Pack<T>*>(at + i * kApart * kRowBytes);
        float v[kPack];
        to_floats(v, load_vector<kPack>(&here.at[0]));
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          v[k] = activation(fmaf(a[k], v[k], b[k])).h;
          if constexpr (Gated) v[k] *= gate[k];
        }
        store_vector(&here.at[0], vector_of<T>(v));
      }
    };
    constexpr int kRows = kStreamedTile / kApart / kFilling;
    const int begin = (warpgroup - kStreamedMultiplying / kWarpgroup) * kRows, end = begin + kRows;
    if constexpr (!Gated) {
      make(begin, end, nullptr);
    } else {
      // A tile meets two images at most.
      const int area = in.height * in.width, image = tile * kStreamedTile / area,
                next = (image + 1) * area - tile * kStreamedTile,
                of_next = min(max((next - row + kApart - 1) / kApart, begin), end);
      make(begin, of_next, in.gate + int64_t{image} * in.channels);
      if (image + 1 < in.batch) make(of_next, end, in.gate + int64_t{image + 1} * in.channels);
    }
  }

  // Fills the stages with all chunks of the block.
  template <class Act>
  __device__ __forceinline__ void fill(RingRequests& requests, int begin, int chunks,
                                       const CUtensorMap& map, Act activation) const {
    RingPlace place;
#pragma unroll 1
    for (int n = 0; n < chunks; ++n) {
      if (asks()) ask(requests, n, begin, chunks, map);
      __syncwarp();
      barrier_wait(ring.loaded(place.stage), place.parity);
      const int tile = begin + n / cut.chunks, chunk = n % cut.chunks;
      if (in.gate)
        make_operand<true>(tile, chunk, place.stage, activation);
      else
        make_operand<false>(tile, chunk, place.stage, activation);
      show_to_products();
      barrier_arrive(ring.full(place.stage));
      place.advance(ring);
    }
  }

  // ---- those who multiply

  __device__ __forceinline__ int row() const {
    return warpgroup / 2 * 64;
  }
  __device__ __forceinline__ int share() const {
    return warpgroup / 2 * 4 + warp;
  }
  // The thread's first channel in set `set` of 32, in the group.
  __device__ __forceinline__ int column(int set) const {
    return warpgroup % 2 * kOfWarpgroup + set * 32 + lane % 4 * kPack;
  }

  __device__ __forceinline__ void multiply_chunk(Results& results, int chunk, int which) const {
    const uint64_t a =
        rows_descriptor<kRowBytes>(banded::shared_address(stage(which)) + row() * kRowBytes);
    const uint64_t b =
        rows_descriptor<kRowBytes>(banded::shared_address(weights) + chunk * cut.weights() +
                                   warpgroup % 2 * kOfWarpgroup * kRowBytes);
    open_products();
#pragma unroll
    for (int i = 0; i < kStreamedChunk / kWarpgroupDepth; ++i) {
#pragma unroll
      for (int s = 0; s < Sets / 2; ++s)
        multiply_async<T, Inner::channels, Inner::channels>(
            results.wide[s], a + 2 * i, b + s * 64 * kRowBytes / 16 + 2 * i, chunk > 0 || i > 0);
      if constexpr (Sets % 2 == 1)
        multiply_async<T, Inner::channels, Inner::channels>(
            results.last, a + 2 * i, b + Sets / 2 * 64 * kRowBytes / 16 + 2 * i,
            chunk > 0 || i > 0);
    }
    commit_products();
  }

  // Stores the thread's two rows of a tile, and adds their statistics, shifted by what the warp
  // stored first.
  __device__ __forceinline__ void finish(const Results& results, int tile, bool begins) const {
    const int pixel = tile * kStreamedTile + row() + warp * 16 + lane / 4;
    const bool has[2] = {pixel < cut.pixels, pixel + 8 < cut.pixels};
#pragma unroll
    for (int set = 0; set < Sets; ++set) {
      uint2 words[2][2];
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int c = column(set) + part * kHalfPack;
        float y[2][kHalfPack];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          results.quad(y[half], set, part, half);
          const Vector<T, kHalfPack> stored = vector_of<T>(y[half]);
          to_floats(y[half], stored);
          words[half][part] = reinterpret_cast<const uint2&>(stored);
        }
        if (!out.mean) continue;
        float* const shifts = &sums.of(2, share(), c);
        if (begins) {
          if (lane < 4)
            *reinterpret_cast<float4*>(shifts) = make_float4(y[0][0], y[0][1], y[0][2], y[0][3]);
          __syncwarp();
        }
        float origin[kHalfPack], one[kHalfPack] = {}, two[kHalfPack] = {};
        load_floats(origin, shifts);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int k = 0; k < kHalfPack; ++k) {
            const float d = has[half] ? y[half][k] - origin[k] : 0.f;
            one[k] += d;
            two[k] = fmaf(d, d, two[k]);
          }
        sums.fold_two(lane / 4, share(), c, one, two);
      }
      if (first + column(set) >= out.channels) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (has[half])
          *reinterpret_cast<uint4*>(
              row_at(out.y + first + column(set), pixel + 8 * half, out.pitch)) =
              make_uint4(words[half][0].x, words[half][0].y, words[half][1].x, words[half][1].y);
    }
  }

  // Multiplies all tiles of the block.
  __device__ __forceinline__ void multiply_all(int begin, int end) const {
    const bool plain = in.plain();
    RingPlace place;
    int met = 0;
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      Results results;
#pragma unroll 1
      for (int chunk = 0; chunk < cut.chunks; ++chunk) {
        barrier_wait(plain ? ring.loaded(place.stage) : ring.full(place.stage), place.parity);
        multiply_chunk(results, chunk, place.stage);
        wait_products<0>();
        if (lane == 0) barrier_arrive(ring.empty(place.stage));
        place.advance(ring);
      }
      finish(results, tile, tile == begin);
      met += min(max(cut.pixels - tile * kStreamedTile - row() - warp * 16, 0), 16);
    }
    if (warpgroup % 2 == 0 && lane == 0) sums.met[share()] = static_cast<float>(met);
  }
};

template <class T, int Sets>
__device__ __forceinline__ void run_streamed(const SliceView<T>& out, const OperandView<T>& in,
                                             const T* weight, const Partials& partials,
                                             const StreamedCut& cut, const CUtensorMap& map) {
  using Kernel = StreamedKernel<T, Sets>;
  const Kernel k{out, in, cut};
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles),
            chunks = (end - begin) * cut.chunks;
  RingRequests requests;
  if (k.asks()) k.ring.prepare(k.kFilling * kWarpgroup, kStreamedMultiplying / kWarp);
  k.stage_weights(weight);
  follow();
  if (k.asks()) k.ask(requests, 0, begin, chunks, map);
  k.stage_constants();
  show_to_products();
  __syncthreads();
  const auto fill = [&](auto activation) { k.fill(requests, begin, chunks, map, activation); };
  if (k.multiplies()) {
    k.multiply_all(begin, end);
  } else if (in.plain()) {
    if (k.asks()) k.ask(requests, chunks, begin, chunks, map);
  } else if (in.act == Activation::silu) {
    fill(Through<Activation::silu>{});
  } else if (in.act == Activation::relu) {
    fill(Through<Activation::relu>{});
  } else {
    fill(ThroughAny{in.act});
  }
  if (!out.mean) return;
  __syncthreads();
  const OutputEpilogue<T> epilogue{out, partials.rows};
  for (int c = k.index; c < k.kColumns && k.first + c < out.channels; c += k.kThreads)
    epilogue.leave(k.sums, c, k.first + c, 0);
  const auto count_of = [&](int unit) {
    const int pixels = cut.per * kStreamedTile;
    return min(pixels, cut.pixels - unit * pixels);
  };
  constexpr int V = Sets == 3 ? 3 : 4;
  finish_statistics(out.mean, out.var, partials, cut.pixels, count_of, out.channels,
                    *reinterpret_cast<SumBuffer<V, Kernel::kThreads>*>(dynamic_shared));
}

template <class T, int Sets>
__global__ void __launch_bounds__(streamed_threads(Sets), 1)
    streamed_kernel(const __grid_constant__ SliceView<T> out,
                    const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                    Partials partials, const __grid_constant__ StreamedCut cut,
                    const __grid_constant__ CUtensorMap map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  run_streamed<T, Sets>(out, in, weight, partials, cut, map);
#endif
}

template <class T, int Sets>
Enqueue prepare_streamed(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                         const Partials& partials, const StreamedCut& cut) {
  auto* const kernel = streamed_kernel<T, Sets>;
  CUtensorMap map;
  if (!multiplies_here(kernel, cut.shared) ||
      !describe(map,
                boxed_rows(in.x, cut.pixels, in.channels, in.pitch, kStreamedChunk, kStreamedTile)))
    return {};
  const int lanes = Sets == 3 ? 64 : 16 * Sets;
  return [=](cudaStream_t stream) {
    launch(kernel, dim3(cut.groups, cut.units), dim3(lanes, streamed_threads(Sets) / lanes),
           cut.shared, stream, out, in, weight, partials, cut, map);
  };
}

}  // namespace

template <class T>
Enqueue PointwiseStreamed<T>::prepare(const SliceView<T>& out, const OperandView<T>& in,
                                      const T* weight, const Partials& partials) {
  if (in.random.present()) return {};
  const StreamedCut cut = streamed_cut(out.pixels(), in.channels, out.channels, device_limits());
  switch (cut.sets) {
    case 1: return prepare_streamed<T, 1>(out, in, weight, partials, cut);
    case 2: return prepare_streamed<T, 2>(out, in, weight, partials, cut);
    case 3: return prepare_streamed<T, 3>(out, in, weight, partials, cut);
    default: return prepare_streamed<T, 4>(out, in, weight, partials, cut);
  }
}

template struct PointwiseStreamed<__half>;
template struct PointwiseStreamed<__nv_bfloat16>;

}  // namespace engine::kernels

// Pointwise convolution, forward, of an operand that the copy engine brings: y = W · f(x), with the
// statistics of y. It moves C + C' values of T for each pixel; where the output is cut into groups,
// each reads the operand again, from L2.
//
// The weights of a group of channels stay in shared memory. Chunks of 64 channels of 128 pixels
// come into a ring of stages, in rows of 128 bytes as the matrix unit wants them; warpgroups that
// multiply nothing make f of them in place, unless the operand is plain. Others multiply 64
// channels of the output by a tile or a part of it: channels are the rows of a product, so that a
// thread meets many pixels of two of them and holds their statistics from tile to tile. Results
// turn in shared memory, from where the copy engine stores them while the next tile is multiplied.
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

// The operand (pixels, C), the weights (C', C), and the output (pixels, C').
struct StreamedMaps {
  CUtensorMap in, weight, out;
};

template <class T, int Sets>
struct StreamedKernel {
  static constexpr int kMultiplying = streamed_multiplying(Sets), kFilling = streamed_filling(Sets);
  static constexpr int kThreads = streamed_threads(Sets), kParts = streamed_parts(Sets);
  static constexpr int kPixels = kStreamedTile / kParts;  // of a warpgroup, of a tile
  static constexpr int kBoxPixels = streamed_box(Sets);   // that are stored together
  static constexpr int kColumns = kStreamedSet * Sets;    // channels of the group
  static constexpr int kRowBytes = 2 * kStreamedChunk;
  static constexpr int kPacks = kStreamedChunk / kPack;

  // The channels of a warpgroup by its pixels.
  using Results = float[kPixels / 8][4];

  // Σd and Σd² of a thread's two channels, with d = y − origin.
  struct Statistics {
    float origin[2] = {}, one[2] = {}, two[2] = {};
    int met = 0;
  };

  const SliceView<T>& out;
  const OperandView<T>& in;
  const StreamedCut& cut;
  int index = threadIdx.y * blockDim.x + threadIdx.x, lane = index % kWarp;
  int warp = index / kWarp % (kWarpgroup / kWarp);  // of the warpgroup
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  int first = blockIdx.x * kColumns;  // channel of the group
  // The shared memory: stages, weights of the chunks, results of the warpgroups; whether the
  // weights are loaded, and whether stages are loaded, full, and empty; constants of the operand,
  // statistics, and the pixels that each part met.
  unsigned char* stages =
      dynamic_shared + (-banded::shared_address(dynamic_shared) & (kStreamedAlignment - 1));
  unsigned char* weights = stages + cut.stages * StreamedCut::stage();
  unsigned char* results = weights + cut.chunks * cut.weights();
  uint32_t weights_loaded = banded::shared_address(results) + cut.results();
  Ring ring{weights_loaded + 8, cut.stages};
  float* scale = reinterpret_cast<float*>(results + cut.results() + kStreamedBarrierBytes);
  float* shift = scale + cut.chunks * kStreamedChunk;
  float* statistics = shift + cut.chunks * kStreamedChunk;
  ProductSums sums{statistics, statistics + 3 * kParts* kColumns, kParts, kColumns};

  __device__ __forceinline__ bool asks() const { return index == kMultiplying * kWarpgroup; }
  __device__ __forceinline__ bool multiplies() const { return warpgroup < kMultiplying; }
  __device__ __forceinline__ unsigned char* stage(int which) const {
    return stages + which * StreamedCut::stage();
  }
  // Asks for the weights of the group.
  __device__ __forceinline__ void request_weights(const CUtensorMap& map) const {
    barrier_expect(weights_loaded, cut.chunks * cut.weights());
    for (int chunk = 0; chunk < cut.chunks; ++chunk)
      load_box(banded::shared_address(weights) + chunk * cut.weights(), &map,
               chunk * kStreamedChunk, first, weights_loaded);
  }
  __device__ __forceinline__ void stage_constants() const {
    for (int c = index; c < cut.chunks * kStreamedChunk; c += kThreads) {
      const Folded folded =
          c < in.channels ? fold_norm(in.norm.channel(c), in.act) : Folded{0.f, 0.f};
      scale[c] = folded.scale;
      shift[c] = folded.shift;
    }
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
    const int begin = (warpgroup - kMultiplying) * kRows, end = begin + kRows;
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

  // The warpgroup's set of channels, and its part of each tile.
  __device__ __forceinline__ int set() const {
    return warpgroup % Sets;
  }
  __device__ __forceinline__ int part() const {
    return warpgroup / Sets;
  }
  // Boxes of results take turns: a row of 128 bytes for each pixel.
  __device__ __forceinline__ uint32_t box(int which) const {
    return banded::shared_address(results) +
           (warpgroup * kStreamedBoxes + which % kStreamedBoxes) * kBoxPixels * kRowBytes;
  }

  __device__ __forceinline__ void multiply_chunk(Results& products, int chunk, int which) const {
    const uint64_t a = rows_descriptor<kRowBytes>(
        banded::shared_address(weights) + chunk * cut.weights() + set() * kStreamedSet * kRowBytes);
    const uint64_t b = rows_descriptor<kRowBytes>(banded::shared_address(stage(which)) +
                                                  part() * kPixels * kRowBytes);
    open_products();
#pragma unroll
    for (int i = 0; i < kStreamedChunk / kWarpgroupDepth; ++i)
      multiply_async<T, Inner::channels, Inner::channels>(products, a + 2 * i, b + 2 * i,
                                                          chunk > 0 || i > 0);
    commit_products();
  }

  // Two neighbouring pixels of one of the thread's channels, as they are stored.
  __device__ __forceinline__ static uint32_t rounded(const Results& products, int j, int high) {
    const float pair[2] = {products[j][2 * high], products[j][2 * high + 1]};
    const Vector<T, 2> stored = vector_of<T>(pair);
    return reinterpret_cast<const uint32_t&>(stored);
  }
  __device__ __forceinline__ static void unpack(float (&y)[2], uint32_t word) {
    to_floats(y, reinterpret_cast<const Vector<T, 2>&>(word));
  }

  // Adds two times two blocks of eight pixels, of which the part has `left` from the first one on.
  template <bool Whole>
  __device__ __forceinline__ void count(Statistics& of, const uint32_t (&words)[4],
                                        int left) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float y[2];
      unpack(y, words[i]);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float d = y[k] - of.origin[i % 2];
        if constexpr (!Whole) d = i / 2 * 8 + lane % 4 * 2 + k < left ? d : 0.f;
        of.one[i % 2] += d;
        of.two[i % 2] = fmaf(d, d, of.two[i % 2]);
      }
    }
  }
  // Rounds results of a box, turns them into it and adds those of the first `left` pixels to the
  // statistics.
  __device__ __forceinline__ void turn(const Results& products, Statistics& of, int which,
                                       int left) const {
    // The transposes of two blocks of eight channels for each of two blocks of eight pixels: a
    // thread's address is that of one pixel of one of them.
    const int block = lane / 8, of_block = lane % 8, pack = warp * 2 + block % 2;
    const uint32_t to =
        box(which) + (block / 2 * 8 + of_block) * kRowBytes + (pack ^ of_block) * kPackBytes;
#pragma unroll
    for (int i = 0; i < kBoxPixels / 8; i += 2) {
      const int j = which * (kBoxPixels / 8) + i, here = left - i * 8;
      const uint32_t words[4] = {rounded(products, j, 0), rounded(products, j, 1),
                                 rounded(products, j + 1, 0), rounded(products, j + 1, 1)};
      banded::store_transposed(to + i * 8 * kRowBytes, words);
      if (here >= 16)
        count<true>(of, words, here);
      else
        count<false>(of, words, here);
    }
  }

  // Begins to store the results of a tile, box by box; one that is written again has been read.
  __device__ __forceinline__ void finish(const Results& products, Statistics& of, int tile,
                                         const CUtensorMap& map) const {
    const int begin = tile * kStreamedTile + part() * kPixels;
    const int channel = first + set() * kStreamedSet;
    const bool leads = index % kWarpgroup == 0;
    if (of.met == 0)
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        float y[2];
        unpack(y, rounded(products, 0, high));
        of.origin[high] = __shfl_sync(0xffffffff, y[0], 0, 4);  // the part's first pixel
      }
#pragma unroll
    for (int b = 0; b < kPixels / kBoxPixels; ++b) {
      const int pixel = begin + b * kBoxPixels, left = min(max(cut.pixels - pixel, 0), kBoxPixels);
      of.met += left;
      if (leads) wait_boxes_read<kStreamedBoxes - 1>();
      sync_warpgroup(warpgroup);
      turn(products, of, b, left);
      show_to_products();
      sync_warpgroup(warpgroup);
      if (leads && left > 0 && channel < out.channels) store_box(box(b), &map, channel, pixel);
    }
  }

  // The statistics of the thread's channels, of which four threads have a share each.
  __device__ __forceinline__ void leave(Statistics& of) const {
#pragma unroll
    for (int high = 0; high < 2; ++high) {
#pragma unroll
      for (int far = 1; far < 4; far *= 2) {
        of.one[high] += __shfl_xor_sync(0xffffffff, of.one[high], far);
        of.two[high] += __shfl_xor_sync(0xffffffff, of.two[high], far);
      }
      if (lane % 4 > 0) continue;
      const int column = set() * kStreamedSet + warp * 16 + high * 8 + lane / 4;
      sums.of(0, part(), column) = of.one[high];
      sums.of(1, part(), column) = of.two[high];
      sums.of(2, part(), column) = of.origin[high];
    }
    if (set() == 0 && index % kWarpgroup == 0) sums.met[part()] = static_cast<float>(of.met);
  }

  // Multiplies all tiles of the block.
  __device__ __forceinline__ void multiply_all(int begin, int end, const CUtensorMap& map) const {
    const bool plain = in.plain();
    Statistics of;
    RingPlace place;
    barrier_wait(weights_loaded, 0);
#pragma unroll 1
    for (int tile = begin; tile < end; ++tile) {
      Results products;
#pragma unroll 1
      for (int chunk = 0; chunk < cut.chunks; ++chunk) {
        barrier_wait(plain ? ring.loaded(place.stage) : ring.full(place.stage), place.parity);
        multiply_chunk(products, chunk, place.stage);
        wait_products<0>();
        if (lane == 0) barrier_arrive(ring.empty(place.stage));
        place.advance(ring);
      }
      finish(products, of, tile, map);
    }
    if (index % kWarpgroup == 0) wait_boxes();
    if (out.mean) leave(of);
  }
  // Those who fill meet as many barriers: racecheck tells by their number what lies between two.
  __device__ __forceinline__ void meet_as_many(int begin, int end) const {
    for (int i = 0; i < (end - begin) * (kPixels / kBoxPixels) * 2; ++i) sync_warpgroup(warpgroup);
  }
};

template <class T, int Sets>
__device__ __forceinline__ void run_streamed(const SliceView<T>& out, const OperandView<T>& in,
                                             const Partials& partials, const StreamedCut& cut,
                                             const StreamedMaps& maps) {
  using Kernel = StreamedKernel<T, Sets>;
  const Kernel k{out, in, cut};
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles),
            chunks = (end - begin) * cut.chunks;
  RingRequests requests;
  if (k.asks()) {
    barrier_init(k.weights_loaded, 1);
    k.ring.prepare(k.kFilling * kWarpgroup, k.kMultiplying * (kWarpgroup / kWarp));
    k.request_weights(maps.weight);
  }
  follow();
  if (k.asks()) k.ask(requests, 0, begin, chunks, maps.in);
  k.stage_constants();
  __syncthreads();
  if (k.multiplies()) {
    k.multiply_all(begin, end, maps.out);
  } else {
    if (in.plain() && k.asks())
      k.ask(requests, chunks, begin, chunks, maps.in);
    else if (!in.plain())
      visit_through(in.act,
                    [&](auto activation) { k.fill(requests, begin, chunks, maps.in, activation); });
    __syncwarp();
    k.meet_as_many(begin, end);
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
                    const __grid_constant__ OperandView<T> in, Partials partials,
                    const __grid_constant__ StreamedCut cut,
                    const __grid_constant__ StreamedMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  run_streamed<T, Sets>(out, in, partials, cut, maps);
#endif
}

template <class T, int Sets>
Enqueue prepare_streamed(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                         const Partials& partials, const StreamedCut& cut) {
  auto* const kernel = streamed_kernel<T, Sets>;
  StreamedMaps maps;
  if (!multiplies_here(kernel, cut.shared) ||
      !describe(maps.in, boxed_rows(in.x, cut.pixels, in.channels, in.pitch, kStreamedChunk,
                                    kStreamedTile)) ||
      !describe(maps.weight, boxed_rows(weight, out.channels, in.channels, in.channels,
                                        kStreamedChunk, cut.columns())) ||
      !describe(maps.out, boxed_rows(static_cast<const T*>(out.y), cut.pixels, out.channels,
                                     out.pitch, kStreamedSet, streamed_box(Sets))))
    return {};
  const int lanes = Sets == 3 ? 64 : 16 * Sets;
  return [=](cudaStream_t stream) {
    launch(kernel, dim3(cut.groups, cut.units), dim3(lanes, streamed_threads(Sets) / lanes),
           cut.shared, stream, out, in, partials, cut, maps);
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

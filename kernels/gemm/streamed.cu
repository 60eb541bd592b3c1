// Pointwise convolution, forward, by warpgroups: y = W · f(x), with f made on its way into shared
// memory and the statistics of y taken in the epilogue. A persistent block streams chunks of 64
// channels of its tiles through two stages: one is multiplied while the other is filled, and the
// chunk after it is on its way into registers. It moves C + C' values of T for each pixel; where
// the output is cut into groups, each reads the operand again, from L2.
#include "kernels/gemm/source.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/packs.cuh"
#include "kernels/pointwise_tiles.h"
#include "kernels/warpgroup.cuh"

namespace engine::kernels {
namespace {

constexpr int kSet = 32, kSetTiles = kSet / 8;  // channels of four results of the matrix unit
constexpr int kWarps = kStreamedThreads / kWarp;
constexpr int kStep = kStreamedThreads / kStreamedPacks;  // pixels that are filled together

// The sum of value[k] over the eight rows g of a warp's threads; lane (g, t) gets k = g.
__device__ __forceinline__ float fold_rows(const float (&value)[kPack], int g) {
  float four[4], two[2];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float keep = g & 4 ? value[k + 4] : value[k], give = g & 4 ? value[k] : value[k + 4];
    four[k] = keep + __shfl_xor_sync(0xffffffff, give, 16);
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float keep = g & 2 ? four[k + 2] : four[k], give = g & 2 ? four[k] : four[k + 2];
    two[k] = keep + __shfl_xor_sync(0xffffffff, give, 8);
  }
  const float keep = g & 1 ? two[1] : two[0], give = g & 1 ? two[0] : two[1];
  return keep + __shfl_xor_sync(0xffffffff, give, 4);
}

// `Rows` warpgroups along the pixels; a warpgroup makes `Sets` times 32 channels.
template <class T, int Rows, int Sets>
struct StreamedKernel {
  static constexpr int kColumns = Sets * kSet * (kStreamedWarpgroups / Rows);
  static constexpr int kTile = Rows * kStreamedRows, kPlane = kTile + 1;
  static constexpr int kWeightPlane = kColumns + 1;
  static constexpr int kPixels = kTile / kStep;  // of a thread
  using Results = float[Sets * kSetTiles][4];
  using Chunk = Pack<T>[kPixels];

  const SliceView<T>& out;
  const OperandView<T>& in;
  const StreamedCut& cut;
  int index = threadIdx.y * blockDim.x + threadIdx.x, lane = index % kWarp;
  int warp = index / kWarp, g = lane / 4, t = lane % 4;
  // The same for all of its threads, which the compiler does not see from their indices.
  int warpgroup = __shfl_sync(0xffffffff, index / kWarpgroup, 0);
  int row = warpgroup % Rows * kStreamedRows, column = warpgroup / Rows * Sets * kSet;
  int pack = index % kStreamedPacks, at = index / kStreamedPacks;  // of what the thread fills
  int first = blockIdx.x * kColumns;
  // The shared memory: pixels, weights, a scale and a shift for each channel, shifts and sums of
  // the statistics.
  Pack<T>* stages = reinterpret_cast<Pack<T>*>(dynamic_shared);
  Pack<T>* weights = stages + 2 * kStreamedPacks * kPlane;
  float* scale = reinterpret_cast<float*>(weights + cut.slots * kStreamedPacks * kWeightPlane);
  float* shift = scale + cut.chunks * kStreamedChunk;
  float* origin = shift + cut.chunks * kStreamedChunk;
  float* sums = origin + kColumns;  // (warps, 2, columns)

  // Column n of a set is channel 8 t + 2 j + e, n = 8 j + 2 t + e, so that a thread makes eight
  // neighbouring ones.
  __device__ __forceinline__ static int channel_of(int n) {
    return n / kSet * kSet + n % 8 / 2 * 8 + n % kSet / 8 * 2 + n % 2;
  }
  __device__ __forceinline__ void copy_weights(const T* __restrict__ weight, int chunk) const {
    const int c = chunk * kStreamedChunk + pack * kPack;
    Pack<T>* const to = weights + (chunk % cut.slots * kStreamedPacks + pack) * kWeightPlane;
    constexpr int kEach = (kColumns + kStep - 1) / kStep;
    const T* from[kEach];
    const auto wanted = [&](int n) {
      return n < kColumns && first + channel_of(n) < out.channels && c < in.channels;
    };
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int n = at + i * kStep, o = first + channel_of(n);
      from[i] = weight + (wanted(n) ? int64_t{o} * in.channels + c : 0);
    }
    keep_apart(from);
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (at + i * kStep < kColumns)
        copy_or_zero(to + at + i * kStep, from[i], wanted(at + i * kStep));
  }
  __device__ __forceinline__ void stage_constants() const {
    for (int c = index; c < cut.chunks * kStreamedChunk; c += kStreamedThreads) {
      const Folded folded =
          c < in.channels ? fold_norm(in.norm.channel(c), in.act) : Folded{0.f, 0.f};
      scale[c] = folded.scale;
      shift[c] = folded.shift;
    }
    for (int i = index; i < 2 * kWarps * kColumns; i += kStreamedThreads) sums[i] = 0;
  }

  // Step s of the block is chunk s % chunks of its tile s / chunks.
  __device__ __forceinline__ Pack<T>* stage(int step) const {
    return stages + step % 2 * kStreamedPacks * kPlane;
  }
  __device__ __forceinline__ int pixel(int step, int begin) const {  // the thread's first one
    return (begin + step / cut.chunks) * kTile + at;
  }
  __device__ __forceinline__ void read(Chunk& chunk, int step, int begin) const {
    const int c = step % cut.chunks * kStreamedChunk + pack * kPack, from = pixel(step, begin);
#pragma unroll
    for (int i = 0; i < kPixels; ++i)
      chunk[i] = load_if(from + i * kStep < cut.pixels && c < in.channels,
                         in.x + int64_t{from + i * kStep} * in.pitch + c);
  }
  __device__ __forceinline__ void fill(const Chunk& chunk, int step, int begin) const {
    const int c = step % cut.chunks * kStreamedChunk + pack * kPack;
    Pack<T>* const to = stage(step) + pack * kPlane + at;
    if (in.plain()) {
#pragma unroll
      for (int i = 0; i < kPixels; ++i) store_vector(&to[i * kStep].at[0], chunk[i]);
      return;
    }
    float a[kPack], b[kPack], gate[kPack];
    load_floats(a, scale + c);
    load_floats(b, shift + c);
    const bool gated = in.gate != nullptr && c < in.channels;
    visit_activation(in.act, [&](auto activation) {
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (gated) {
          const int image = min(pixel(step, begin) + i * kStep, cut.pixels - 1) / cut.area;
          load_floats(gate, in.gate + int64_t{image} * in.channels + c);
        }
        store_vector(&to[i * kStep].at[0], activate_pack(chunk[i], a, b, gate, gated, activation));
      }
    });
  }

  // Begins the products of a chunk.
  __device__ __forceinline__ void multiply(Results& sum, int step) const {
    const int chunk = step % cut.chunks;
    const int left = min(in.channels - chunk * kStreamedChunk, kStreamedChunk);
    const uint64_t a =
        planes_descriptor<Inner::channels>(banded::shared_address(stage(step) + row), kPlane);
    const uint64_t b = planes_descriptor<Inner::channels>(
        banded::shared_address(weights + chunk % cut.slots * kStreamedPacks * kWeightPlane +
                               column),
        kWeightPlane);
    open_products();
#pragma unroll 1
    for (int depth = 0; depth * kWarpgroupDepth < left; ++depth)
#pragma unroll
      for (int set = 0; set < Sets; set += 2) {
        constexpr int kTogether = Sets > 1 ? 2 * kSetTiles : kSetTiles;
        multiply_planes<T, Inner::channels, Inner::channels>(
            reinterpret_cast<float(&)[kTogether][4]>(sum[set * kSetTiles]), a + 2 * depth * kPlane,
            b + 2 * depth * kWeightPlane + set * kSet, chunk > 0 || depth > 0);
      }
    commit_products();
  }

  // Stores the tile's results, and adds them to the warp's sums, shifted by what the block's first
  // pixel has. All threads call it.
  __device__ __forceinline__ void store(const Results& sum, int tile, bool is_first) const {
    const int from = tile * kTile + row + warp % 4 * 16 + g;
    if (is_first && out.mean) {
      if (row == 0 && warp % 4 == 0 && g == 0)
#pragma unroll
        for (int set = 0; set < Sets; ++set)
#pragma unroll
          for (int k = 0; k < kPack; ++k)
            origin[column + set * kSet + t * kPack + k] =
                to_float(from_float<T>(sum[set * kSetTiles + k / 2][k % 2]));
      __syncthreads();
    }
#pragma unroll
    for (int set = 0; set < Sets; ++set) {
      const int at_column = column + set * kSet + t * kPack, c = first + at_column;
      float shifts[kPack], one[kPack] = {}, two[kPack] = {};
      load_floats(shifts, origin + at_column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float value[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k) value[k] = sum[set * kSetTiles + k / 2][2 * half + k % 2];
        const Pack<T> stored = vector_of<T>(value);
        const bool inside = from + 8 * half < cut.pixels;
        if (inside && c < out.channels)
          store_vector(out.y + int64_t{from + 8 * half} * out.pitch + c, stored);
        to_floats(value, stored);
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const float d = inside ? value[k] - shifts[k] : 0.f;
          one[k] += d;
          two[k] = fmaf(d, d, two[k]);
        }
      }
      if (!out.mean) continue;
      float* const of_warp = sums + 2 * warp * kColumns + at_column + g;
      of_warp[0] += fold_rows(one, g);
      of_warp[kColumns] += fold_rows(two, g);
    }
  }

  // Leaves the block's row of sums.
  __device__ __forceinline__ void leave(float* partials) const {
    for (int n = index; n < kColumns && first + n < out.channels; n += kStreamedThreads) {
      float one = 0, two = 0;
      for (int w = 0; w < kWarps; ++w) {
        one += sums[2 * w * kColumns + n];
        two += sums[(2 * w + 1) * kColumns + n];
      }
      partial(partials, 0, out.channels)[first + n] = one;
      partial(partials, 1, out.channels)[first + n] = two;
      partial(partials, 2, out.channels)[first + n] = origin[n];
    }
  }
};

template <class T, int Rows, int Sets>
__global__ void __launch_bounds__(kStreamedThreads, 1)
    streamed_kernel(const __grid_constant__ SliceView<T> out,
                    const __grid_constant__ OperandView<T> in, const T* __restrict__ weight,
                    Partials partials, const __grid_constant__ StreamedCut cut) {
  follow();
  using Kernel = StreamedKernel<T, Rows, Sets>;
  const Kernel k{out, in, cut};
  const int begin = blockIdx.y * cut.per, end = min(begin + cut.per, cut.tiles);
  const int steps = (end - begin) * cut.chunks;
  const bool resident = cut.slots == cut.chunks;
  typename Kernel::Chunk chunk;
  k.read(chunk, 0, begin);
  for (int i = 0; i < (resident ? cut.chunks : 1); ++i) k.copy_weights(weight, i);
  commit_copies();
  k.stage_constants();
  __syncthreads();
  k.fill(chunk, 0, begin);
  if (steps > 1) k.read(chunk, 1, begin);
  wait_copies<0>();
  show_to_products();
  __syncthreads();

  // Half of the warpgroups multiply while the others fill: a warp that begins products waits until
  // nearly all of them have begun.
  const bool fills_first = k.warpgroup % 2 == 1;
  typename Kernel::Results sum;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if (!resident && step + 1 < steps) k.copy_weights(weight, (step + 1) % cut.chunks);
    commit_copies();
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      if (fills_first == (part == 1)) {
        k.multiply(sum, step);
        continue;
      }
      if (step + 1 < steps) k.fill(chunk, step + 1, begin);
      if (step + 2 < steps) k.read(chunk, step + 2, begin);
    }
    wait_copies<0>();
    wait_products<0>();
    if ((step + 1) % cut.chunks == 0)
      k.store(sum, begin + step / cut.chunks, step + 1 == cut.chunks);
    show_to_products();
    __syncthreads();
  }

  if (!out.mean) return;
  k.leave(partials.rows);
  __syncthreads();  // the sums are read
  finish_statistics(
      out.mean, out.var, partials, static_cast<double>(out.pixels()),
      [&](int unit) {
        const int from = unit * cut.per * Kernel::kTile;
        return min(cut.per * Kernel::kTile, cut.pixels - from);
      },
      out.channels, *reinterpret_cast<SumBuffer<4, kStreamedThreads>*>(dynamic_shared));
}

template <class T, int Rows, int Sets>
void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
         const Partials& partials, const StreamedCut& cut, cudaStream_t stream) {
  const auto kernel = streamed_kernel<T, Rows, Sets>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int lanes = cut.columns / 4;  // of four channels, for the merge
  launch(kernel, dim3(cut.groups, cut.units), dim3(lanes, kStreamedThreads / lanes), cut.shared,
         stream, out, in, weight, partials, cut);
}

}  // namespace

template <class T>
void PointwiseStreamed<T>::run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                               const Partials& partials, cudaStream_t stream) {
  const StreamedCut cut =
      streamed_cut(in.pixels(), in.height * in.width, in.channels, out.channels, device_limits());
  const auto with = [&](auto call) { call(out, in, weight, partials, cut, stream); };
  switch (cut.rows * 1000 + cut.columns) {
    case 4032: return with(kernels::run<T, 4, 1>);
    case 4064: return with(kernels::run<T, 4, 2>);
    case 4128: return with(kernels::run<T, 4, 4>);
    case 2064: return with(kernels::run<T, 2, 1>);
    case 2128: return with(kernels::run<T, 2, 2>);
    default: return with(kernels::run<T, 1, 1>);
  }
}

template struct PointwiseStreamed<__half>;
template struct PointwiseStreamed<__nv_bfloat16>;

}  // namespace engine::kernels

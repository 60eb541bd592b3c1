// The banded forward: y = the convolution of f(x) = act(norm(x)), and the statistics of y as
// stored, which the last block of each group of channels merges. Reads T of x and writes T of y for
// each element; a halo is read again from the L2.
//
// A tile has two barriers: raw pixels → granules of f; then the next raw tile is asked for, and
// products, statistics → granules of y; then y leaves.
#include <utility>

#include "kernels/depthwise/banded.cuh"
#include "kernels/depthwise/banded_merge.cuh"
#include "kernels/kernels.h"

namespace engine::kernels {
namespace banded {

template <BandedTile kOf>
struct ForwardTile : Plane<kOf> {
  using Base = Plane<kOf>;
  static constexpr int kBands = Base::K * Base::kReach;
  // Offsets in shared memory.
  static constexpr int kRaw = 0, kIn = aligned(Base::kRawBytes), kOut = kIn + Base::kWideBytes,
                       kBand = kOut + Base::Inner::kBytes,
                       kWeights = kBand + Base::kQuads * kBands * 128,
                       kBarrier = kWeights + aligned(Base::kChannels * Base::K * Base::K * 2),
                       kShared = kBarrier + 16;
  static_assert(Base::kThreads * 3 * int{sizeof(double)} <= kBand, "room to merge statistics");
  static_assert((kShared + DeviceLimits{}.reserved_bytes) * kOf.blocks <=
                DeviceLimits{}.shared_bytes);

  // The column of the window that joins pixel s of a granule of the reach to pixel p of a pair.
  __host__ __device__ static constexpr int tap(int reach, int s, int p) {
    return Base::S == 1 ? 2 * reach + s - p : 2 * reach - 2 + Base::P + s - 2 * p;
  }
};

// Sums over one lane's two channels of y as stored, shifted by one of its values, so that nothing
// cancels.
struct LaneStatistics {
  float shift[2] = {}, sum[2] = {}, squares[2] = {}, count = 0;

  __device__ __forceinline__ void begin(float2 v) {
    if (count == 0) shift[0] = v.x, shift[1] = v.y;
  }
  __device__ __forceinline__ void add(float2 v) {
    const float d0 = v.x - shift[0], d1 = v.y - shift[1];
    sum[0] += d0, sum[1] += d1;
    squares[0] = fmaf(d0, d0, squares[0]), squares[1] = fmaf(d1, d1, squares[1]);
  }
};

namespace {

template <class T>
struct ForwardArguments {
  SliceView<T> out;
  OperandView<T> in;
  const T* weight;    // (C, K, K)
  Partials partials;  // (rows, 4, C)
  BandedCut cut;
};

// Raw pixels → granules of f, once for each element of the tile and its halo.
template <class T, class Tile>
struct CopyIn {
  using Wide = typename Tile::Wide;
  using In = Walk<Tile::kThreads, Tile::kQuads, Tile::kInColumns, Tile::kImages, Tile::kRawRows>;

  In walk;
  int low, high;       // the raw rows that lie in the image; none if no pixel of the thread does
  bool first, second;  // whether the pixels of the thread's pair do, in its order
  uint32_t passes, raw, to;
  HalfNorm norm[kQuad];

  __device__ __forceinline__ CopyIn(const OperandView<T>& in, const Place& place, uint32_t base) {
    const int c = place.channel + walk.quad * kQuad, pixel = first_pixel<Tile::kQuads>(walk.column);
    const int x = place.left * Tile::S + Tile::kRawX + 2 * walk.column;
    const int y = place.top * Tile::S + Tile::kRawY;
    const bool present = c < in.channels && walk.column < Tile::kRawPairs;
    first = present && x + pixel >= 0 && x + pixel < in.width;
    second = present && x + (pixel ^ 1) >= 0 && x + (pixel ^ 1) < in.width;
    low = max(0, -y), high = first || second ? min(Tile::kRawRows, in.height - y) : 0;
    passes = walk.passes(low, high, Tile::kImages);
    raw = base + Tile::kRaw + (walk.image() * Tile::kRawRows + walk.row()) * Tile::kRawRow +
          (walk.column * 2 + pixel) * Tile::kPixel + walk.quad * 8;
    to = base + Tile::kIn +
         Wide::at(walk.image(), walk.row() + Tile::kFirstRow, walk.column + Tile::kFirstPair,
                  walk.quad) +
         pixel * 8;
#pragma unroll
    for (int k = 0; k < kQuad; ++k)
      if (c < in.channels) norm[k] = half_norm(in.norm.channel(c + k));
    keep(raw), keep(to), keep(passes);
  }

  __device__ __forceinline__ uint2 value(uint2 x) const {
    float v[kQuad];
    unpack<T>(v, x);
#pragma unroll
    for (int k = 0; k < kQuad; ++k)
      v[k] = value_of_half<Tile::kTile.act>(fmaf(v[k], norm[k].scale, norm[k].shift));
    return pack<T>(v);
  }

  __device__ __forceinline__ void run() const {
#pragma unroll
    for (int i = 0; i < In::kPasses; ++i) {
      const int row = In::row_of(i), image = In::image_of(i);
      if (!(passes >> i & 1)) continue;
      const int from = (image * Tile::kRawRows + row) * Tile::kRawRow;
      const uint32_t at = image * Wide::kImage + row * Wide::kRow, turn = Wide::turn(image);
      const uint2 x0 = load_quad(raw + from), x1 = load_quad((raw ^ Tile::kPixel) + from);
      const uint2 v0 = value(x0), v1 = value(x1);
      if (first) store_quad((to ^ turn) + at, v0);
      if (second) store_quad((to ^ turn ^ 8) + at, v1);
    }
  }
};

// The warp's part of the products: granules of f → granules of y, and the statistics.
template <class T, class Tile>
struct Products {
  using Inner = typename Tile::Inner;

  int quad, part;  // the warp's
  WideReader<Tile> reader;
  uint32_t to;
  int valid[2];  // rows in the image of the lane's two columns
  LaneStatistics statistics;

  __device__ __forceinline__ Products(const SliceView<T>& out, const Place& place, uint32_t base)
      : quad(threadIdx.x / 32 % Tile::kQuads),
        part(threadIdx.x / 32 / Tile::kQuads),
        reader(base + Tile::kIn, part, quad) {
    const int lane = threadIdx.x % 32;
    const LaneColumn<Tile> mine(part, lane % 16);
    to = base + Tile::kOut + Inner::at(mine.image, mine.block * kRows + lane / 16, mine.pair, quad);
    keep(to);
    see(out, place, Tile::kImages);
  }

  // From here on a stack has `images` images.
  __device__ __forceinline__ void see(const SliceView<T>& out, const Place& place, int images) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const LaneColumn<Tile> column(part, lane / 4 + 8 * h);
      valid[h] =
          column.image < images ? column.rows(lane % 4 / 2, place, out.width, out.height) : 0;
      keep(valid[h]);
    }
  }

  __device__ __forceinline__ void run(const uint32_t* bands) {
    if (Tile::kTeams != Tile::kParts && part >= Tile::kParts) return;
    float acc[kRows][4] = {};
    {
      uint32_t b[Tile::kBands];
#pragma unroll
      for (int i = 0; i < Tile::kBands; ++i) b[i] = bands[i * 32];
      convolve<T, Tile, false>(acc, reader, b);
    }
    uint32_t stored[kRows + 1][2];
#pragma unroll
    for (int y = 0; y < kRows; ++y)
#pragma unroll
      for (int h = 0; h < 2; ++h) stored[y][h] = pack<T>(acc[y][2 * h], acc[y][2 * h + 1]);
    statistics.begin(unpack<T>(valid[0] > 0 ? stored[0][0] : stored[0][1]));
#pragma unroll
    for (int y = 0; y < kRows; ++y)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (y < valid[h]) statistics.add(unpack<T>(stored[y][h]));
    statistics.count += static_cast<float>(valid[0] + valid[1]);
#pragma unroll
    for (int y = 0; y + 1 < kRows; y += 2)
      store_matrices(to + y * Inner::kRow,
                     {stored[y][0], stored[y][1], stored[y + 1][0], stored[y + 1][1]});
    store_matrices(to + (kRows - 1) * Inner::kRow, {stored[kRows - 1][0], stored[kRows - 1][1]});
  }

  // This block's row (4, C) of partial sums, about the shift of its first pixel. scratch: shared
  // memory that nobody reads any more.
  __device__ __forceinline__ void leave(float* row, int first_channel, int channels,
                                        float* scratch) {
    constexpr int kChannels = Tile::kChannels;
    float* const shifts = scratch;                                        // (channels,)
    float* const sums = scratch + kChannels;                              // (parts, 3, channels)
    const int lane = threadIdx.x % 32, at = quad * kQuad + lane % 2 * 2;  // its two channels
    if (part == 0 && lane < 2)
      shifts[at] = statistics.shift[0], shifts[at + 1] = statistics.shift[1];
    __syncthreads();
    const float n = statistics.count, all = sum_over_pixels(n);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float s = statistics.sum[k], d = n > 0 ? statistics.shift[k] - shifts[at + k] : 0.f;
      const float s1 = sum_over_pixels(s + n * d);
      const float s2 = sum_over_pixels(statistics.squares[k] + d * (2 * s + n * d));
      if (lane >= 2 || part >= Tile::kParts) continue;
      float* const to_sums = sums + part * 3 * kChannels + at + k;
      to_sums[0] = s1, to_sums[kChannels] = s2, to_sums[2 * kChannels] = all;
    }
    __syncthreads();
    const int c = threadIdx.x;
    if (c >= kChannels || first_channel + c >= channels) return;
    float total[3] = {};
#pragma unroll
    for (int p = 0; p < Tile::kParts; ++p)
#pragma unroll
      for (int i = 0; i < 3; ++i) total[i] += sums[(p * 3 + i) * kChannels + c];
    row += first_channel + c;
    row[0] = total[0], row[channels] = total[1], row[2 * channels] = shifts[c];
    row[3 * channels] = total[2];
  }
};

// The weights of the block's channels are contiguous: one trip to memory, then the bands of all
// quads.
template <class T, class Tile>
__device__ __forceinline__ void prepare_bands(uint32_t* bands, uint16_t* weights, const T* weight,
                                              int first_channel, int channels) {
  constexpr int kTaps = Tile::K * Tile::K;
  const auto* const bits = reinterpret_cast<const uint16_t*>(weight) + first_channel * kTaps;
  const int count = min(Tile::kChannels, channels - first_channel) * kTaps;
  for (int i = threadIdx.x; i < count; i += Tile::kThreads) weights[i] = bits[i];
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x / 32; i < Tile::kQuads * Tile::kBands; i += Tile::kThreads / 32) {
    const int quad = i / Tile::kBands, at = i % Tile::kBands, reach = at % Tile::kReach;
    bands[i * 32 + threadIdx.x % 32] =
        band<Tile::K>(weights + quad * kQuad * kTaps, channels - first_channel - quad * kQuad,
                      at / Tile::kReach, [&](int s, int p) { return Tile::tap(reach, s, p); });
  }
}

template <class T, class Tile>
__device__ __forceinline__ void run_forward(const ForwardArguments<T>& a, const CUtensorMap* map) {
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared), barrier = base + Tile::kBarrier;
  const Place place = Place::of<Tile>(a.cut);
  const auto fetch = [&](int n) {
    barrier_expect(barrier, Tile::kRawBytes);
    load_box(base + Tile::kRaw, map, place.channel, place.left * Tile::S + Tile::kRawX,
             place.top * Tile::S + Tile::kRawY, n, barrier);
  };
  const auto clear = [&] {
    for (int i = threadIdx.x * 16; i < Tile::kWideBytes; i += Tile::kThreads * 16)
      *reinterpret_cast<uint4*>(shared + Tile::kIn + i) = uint4{};
  };

  if (threadIdx.x == 0) barrier_init(barrier, 1);
  clear();
  uint32_t* const bands = reinterpret_cast<uint32_t*>(shared + Tile::kBand);
  prepare_bands<T, Tile>(bands, reinterpret_cast<uint16_t*>(shared + Tile::kWeights), a.weight,
                         place.channel, a.in.channels);
  follow();
  if (threadIdx.x == 0) fetch(place.stack);
  CopyIn<T, Tile> copy_in(a.in, place, base);
  CopyOut<T, Tile> copy_out(place, a.out.channels, a.out.height, a.out.width, a.out.pitch);
  Products<T, Tile> products(a.out, place, base);
  uint32_t out_from = base + Tile::kOut + copy_out.granule(), phase = 0;
  const uint32_t* my_bands = bands + products.quad * Tile::kBands * 32 + threadIdx.x % 32;
  keep(out_from), keep(copy_out.to), keep(copy_out.passes);
  __syncthreads();

#pragma unroll 1
  for (int n = place.stack; n < a.in.batch; n += place.step) {
    const int images = min(Tile::kImages, a.in.batch - n);
    if (images < Tile::kImages) {  // the batch's last: nothing of older images may stay
      __syncthreads();
      clear();
      copy_in.passes = copy_in.walk.passes(copy_in.low, copy_in.high, images);
      copy_out.passes = copy_out.taken(place, images);
      products.see(a.out, place, images);
      __syncthreads();
    }
    barrier_wait(barrier, phase);
    phase ^= 1;
    copy_in.run();
    __syncthreads();
    if (threadIdx.x == 0 && n + place.step < a.in.batch) fetch(n + place.step);
    products.run(my_bands);
    __syncthreads();
    copy_out.run(a.out.y + int64_t{n} * a.out.height * copy_out.row_size, out_from);
  }

  if (!a.out.mean) return;
  __syncthreads();
  const int channels = a.out.channels;
  products.leave(a.partials.rows + int64_t{blockIdx.y} * kBandedStatistics * channels,
                 place.channel, channels, reinterpret_cast<float*>(shared));
  if (comes_last(a.partials.done))
    finish_statistics<Tile::kThreads, Tile::kChannels>(a.out.mean, a.out.var, a.partials.rows,
                                                       static_cast<int>(gridDim.y), place.channel,
                                                       channels, reinterpret_cast<double*>(shared));
}

template <class T, int kRow>
__global__ void __launch_bounds__(ForwardTile<kBandedForward[kRow]>::kThreads,
                                  kBandedForward[kRow].blocks)
    banded_forward_kernel(ForwardArguments<T> a, const __grid_constant__ CUtensorMap map) {
#if __CUDA_ARCH__ >= 900
  run_forward<T, ForwardTile<kBandedForward[kRow]>>(a, &map);
#endif
}

template <class T, int kRow>
Enqueue prepare_forward(ForwardArguments<T> a) {
  using Tile = ForwardTile<kBandedForward[kRow]>;
  auto* const kernel = banded_forward_kernel<T, kRow>;
  a.cut = banded_cut(Tile::kTile, a.out.batch, a.out.height, a.out.width, a.out.channels,
                     device_limits());
  CUtensorMap map;
  if (!loads(kernel, Tile::kShared) ||
      !describe(map, boxed(a.in.x, a.in, 2 * Tile::kRawPairs, Tile::kRawRows, Tile::kImages,
                           Tile::kChannels)))
    return {};
  return [=](cudaStream_t stream) {
    launch(kernel, dim3(a.cut.groups, a.cut.rows()), Tile::kThreads, Tile::kShared, stream, a, map);
  };
}

// The row-th tile of the table.
template <class T, size_t... kRow>
Enqueue prepare_forward(int row, const ForwardArguments<T>& a, std::index_sequence<kRow...>) {
  Enqueue enqueue;
  ((row == int{kRow} && (enqueue = prepare_forward<T, int{kRow}>(a), true)) || ...);
  return enqueue;
}

}  // namespace
}  // namespace banded

template <class T>
Enqueue BandedForward<T>::prepare(const SliceView<T>& out, const OperandView<T>& in,
                                  const T* weight, Window window, const Partials& partials) {
  const int row = banded_row(kBandedForward, window, in.act, out.height, out.width);
  const bool fits = in.norm.present() && !in.gate && !in.random.present() &&
                    banded::quads_fit(in.x, in.channels, in.pitch) &&
                    banded::quads_fit(out.y, out.channels, out.pitch);
  if (row < 0 || !fits) return {};
  return banded::prepare_forward<T>(row, {out, in, weight, partials, {}},
                                    std::make_index_sequence<std::size(kBandedForward)>{});
}

template struct BandedForward<__half>;
template struct BandedForward<__nv_bfloat16>;

}  // namespace engine::kernels

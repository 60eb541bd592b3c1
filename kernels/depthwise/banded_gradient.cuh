// What the banded backward shares between the strides. For an output y that a squeeze-excite gates,
// and f(x) = act(norm(x)), dw the convolution, ⋆ the correlation over images and pixels:
//   dy = gamma·inv_std·(dz·s + q)·silu' − k0 − k1·xhat    on load, from (dz, y)
//   t  = dwᵀ(dy)·act'      G (= or +=) gamma·inv_std·t      Σt, Σt·xhat
//   dW = dy ⋆ f(x)
// in one kernel: dz, y and x are read once but for halos, G is written once, 2 T + 2 T for each
// element. The last block of each group of channels merges dW and the sums.
#pragma once

#include "kernels/depthwise/banded.cuh"
#include "kernels/depthwise/banded_merge.cuh"
#include "kernels/kernels.h"

namespace engine::kernels::banded {

template <class T>
struct BackwardArguments {
  T* grad;  // G (N, H, W, pitch), at the operand's first channel
  int pitch;
  Write how;
  bool takes_sums;
  NormSums sums;
  float* dweight;  // (C, K, K)
  GradientView<T> dy;
  OperandView<T> in;
  const T* weight;    // (C, K, K)
  Partials partials;  // (rows, K·K + 2, C)
  BandedCut cut;
};

struct BackwardMaps {
  CUtensorMap dz, y, x;  // (N, H, W, C), boxes of raw tiles
  CUtensorMap gate, q;   // (N, C)
};

// ---------------------------------------------------------------- on load

// Constants of the block's channels in shared memory, (6, channels): those of dy, dy = (dz·s + q)·
// gamma·inv_std·silu'(y·scale + shift) + (y·slope + offset), and those of f.
enum ChannelConstant { kScaleOfY, kShiftOfY, kSlope, kOffset, kScaleOfX, kShiftOfX, kConstants };

template <class T, class Tile>
__device__ __forceinline__ void prepare_constants(float* constants, const BackwardArguments<T>& a,
                                                  int first_channel) {
  if (threadIdx.x >= Tile::kChannels) return;
  float value[kConstants] = {};
  const int c = first_channel + static_cast<int>(threadIdx.x);
  if (c < a.in.channels) {
    const ChannelNorm<float> of_y = a.dy.norm.channel(c);
    const HalfNorm y = half_norm(of_y), x = half_norm(a.in.norm.channel(c));
    value[kScaleOfY] = y.scale, value[kShiftOfY] = y.shift;
    value[kScaleOfX] = x.scale, value[kShiftOfX] = x.shift;
    value[kSlope] = -a.dy.k1[c] * of_y.inv_std;
    value[kOffset] = -a.dy.k0[c] - of_y.mean * value[kSlope];
  }
#pragma unroll
  for (int i = 0; i < kConstants; ++i) constants[i * Tile::kChannels + threadIdx.x] = value[i];
}

__device__ __forceinline__ void load_four(float (&out)[kQuad], const unsigned char* shared, int i) {
  const float4 v = reinterpret_cast<const float4*>(shared)[i];
  out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}

// dy of a quad from (dz, y): constants of the quad, and those of the image that was entered.
template <class T, class Tile>
struct GradientOnLoad {
  float scale[kQuad], shift[kQuad], slope[kQuad], offset[kQuad], s[kQuad], q[kQuad];

  __device__ __forceinline__ GradientOnLoad(const unsigned char* constants, int quad) {
    load_four(scale, constants, kScaleOfY * Tile::kQuads + quad);
    load_four(shift, constants, kShiftOfY * Tile::kQuads + quad);
    load_four(slope, constants, kSlope * Tile::kQuads + quad);
    load_four(offset, constants, kOffset * Tile::kQuads + quad);
  }
  // scale is half of gamma·inv_std, which makes up for twice the slope.
  __device__ __forceinline__ void enter(const unsigned char* gates, const unsigned char* shares,
                                        int image, int quad) {
    load_four(s, gates, image * Tile::kQuads + quad);
    load_four(q, shares, image * Tile::kQuads + quad);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) s[k] *= scale[k], q[k] *= scale[k];
  }
  __device__ __forceinline__ uint2 operator()(uint2 raw_dz, uint2 raw_y) const {
    float g[kQuad], y[kQuad];
    unpack<T>(g, raw_dz);
    unpack<T>(y, raw_y);
#pragma unroll
    for (int k = 0; k < kQuad; ++k)
      g[k] = fmaf(fmaf(g[k], s[k], q[k]),
                  twice_slope_of_half<Activation::silu>(fmaf(y[k], scale[k], shift[k])),
                  fmaf(y[k], slope[k], offset[k]));
    return pack<T>(g);
  }
};

// Raw pixels of x → granules of f, and granules of x itself, which G replaces later.
template <class T, class Tile>
struct CopyOperand {
  using Inner = typename Tile::Inner;
  using In = Walk<Tile::kThreads, Tile::kQuads, Tile::kColumns, Tile::kImages, Tile::kTileRows>;

  bool first, second;  // whether the pixels of the thread's pair lie in the image, in its order
  uint32_t raw, to;

  __device__ __forceinline__ CopyOperand(const CopyOut<T, Tile>& out, uint32_t base) {
    const In walk;
    const int pixel = first_pixel<Tile::kQuads>(walk.column);
    first = pixel == 0 ? out.here : out.both, second = pixel == 0 ? out.both : out.here;
    raw = base + Tile::kX + (walk.image() * Tile::kTileRows + walk.row()) * Tile::kInnerRawRow +
          (walk.column * 2 + pixel) * Tile::kPixel + walk.quad * 8;
    to = base + Tile::kXTile + out.granule() + pixel * 8;
    keep(raw), keep(to);
  }
  // The thread's first granule.
  __device__ __forceinline__ uint32_t granule() const { return to & ~15u; }

  __device__ __forceinline__ void run(const unsigned char* constants, uint32_t passes) const {
    constexpr uint32_t kToF =
        static_cast<uint32_t>(Tile::kFTile) - static_cast<uint32_t>(Tile::kXTile);
    const int quad = threadIdx.x % Tile::kQuads;
    float scale[kQuad], shift[kQuad];
    load_four(scale, constants, kScaleOfX * Tile::kQuads + quad);
    load_four(shift, constants, kShiftOfX * Tile::kQuads + quad);
    const auto value = [&](uint2 x) {
      float v[kQuad];
      unpack<T>(v, x);
#pragma unroll
      for (int k = 0; k < kQuad; ++k)
        v[k] = value_of_half<Tile::kTile.act>(fmaf(v[k], scale[k], shift[k]));
      return pack<T>(v);
    };
#pragma unroll
    for (int i = 0; i < In::kPasses; ++i) {
      const int row = In::row_of(i), image = In::image_of(i);
      if (!(passes >> i & 1)) continue;
      const int from = (image * Tile::kTileRows + row) * Tile::kInnerRawRow;
      const uint32_t at = image * Inner::kImage + row * Inner::kRow, turn = Inner::turn(image);
      const uint2 x0 = load_quad(raw + from), x1 = load_quad((raw ^ Tile::kPixel) + from);
      const uint2 f0 = value(x0), f1 = value(x1);
      const uint32_t to0 = (to ^ turn) + at, to1 = (to ^ turn ^ 8) + at;
      if (first) store_quad(to0, x0), store_quad(to0 + kToF, f0);
      if (second) store_quad(to1, x1), store_quad(to1 + kToF, f1);
    }
  }
};

// ---------------------------------------------------------------- on store

// From df of a lane's two channels to G, in the place of x, and the sums.
template <class T, class Tile>
struct GradientOnStore {
  float scale[2] = {}, shift[2] = {}, mean[2] = {};  // u/2 = scale·x + shift
  float sum_t[2] = {}, sum_t_x[2] = {};              // of 2·t and 2·t·(x − mean)

  __device__ __forceinline__ GradientOnStore(const OperandView<T>& in, int channel) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (channel + k >= in.channels) break;
      const ChannelNorm<float> norm = in.norm.channel(channel + k);
      const HalfNorm half = half_norm(norm);
      scale[k] = half.scale, shift[k] = half.shift, mean[k] = norm.mean;
    }
  }

  // x → G of one register: two channels of one pixel. counts: the pixel lies in the image.
  __device__ __forceinline__ uint32_t gradient(uint32_t stored, float df0, float df1, bool counts) {
    constexpr Activation kAct = Tile::kTile.act;
    const float2 x = unpack<T>(stored);
    const float t0 = df0 * twice_slope_of_half<kAct>(fmaf(x.x, scale[0], shift[0]));
    const float t1 = df1 * twice_slope_of_half<kAct>(fmaf(x.y, scale[1], shift[1]));
    if (counts) {
      sum_t[0] += t0, sum_t[1] += t1;
      sum_t_x[0] = fmaf(t0, x.x - mean[0], sum_t_x[0]);
      sum_t_x[1] = fmaf(t1, x.y - mean[1], sum_t_x[1]);
    }
    return pack<T>(t0 * scale[0], t1 * scale[1]);
  }

  // Lanes 0–15 of x_from address a row of the warp's columns, lanes 16–31 the one kRowBytes below.
  template <int kRowBytes>
  __device__ __forceinline__ void run(const float (&df)[kRows][4], uint32_t x_from,
                                      const int (&valid)[2]) {
#pragma unroll
    for (int y = 0; y + 1 < kRows; y += 2) {
      uint32_t x[4];
      load_matrices(x, x_from + y * kRowBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = y + i / 2, h = i % 2;
        x[i] = gradient(x[i], df[row][2 * h], df[row][2 * h + 1], row < valid[h]);
      }
      store_matrices(x_from + y * kRowBytes, x);
    }
    constexpr int kLast = kRows - 1;
    uint32_t x[2];
    load_matrices(x, x_from + kLast * kRowBytes);
#pragma unroll
    for (int h = 0; h < 2; ++h)
      x[h] = gradient(x[h], df[kLast][2 * h], df[kLast][2 * h + 1], kLast < valid[h]);
    store_matrices(x_from + kLast * kRowBytes, x);
  }
};

// ---------------------------------------------------------------- what a block leaves

// The weight's gradient in a warp: products (two rows of f × 16 columns, 8), for each granule of
// the reach and each pair of rows; of a product's columns a lane keeps those of its own channel.
template <class Tile>
using WeightSums = float[Tile::kReach][Tile::kRowPairs][4];

// A warp's entries in shared memory: (reach, row pairs, 2 rows, s, p, quad), then Σt, Σt·xhat.
template <class Tile>
struct Entries {
  static constexpr int kSums = Tile::kReach * Tile::kRowPairs * 2 * 16, kOfWarp = kSums + 2 * kQuad;
  float* scratch;

  __device__ __forceinline__ float& of(int part, int quad, int reach, int rows, int half, int s,
                                       int p, int channel) const {
    const int product = (reach * Tile::kRowPairs + rows) * 2 + half;
    return scratch[(part * Tile::kQuads + quad) * kOfWarp + (product * 4 + s * 2 + p) * kQuad +
                   channel];
  }
  __device__ __forceinline__ float& sum(int part, int quad, int which, int channel) const {
    return scratch[(part * Tile::kQuads + quad) * kOfWarp + kSums + which * kQuad + channel];
  }
};

template <class T, class Tile>
__device__ __forceinline__ void leave_entries(const Entries<Tile>& entries, int part, int quad,
                                              const WeightSums<Tile>& dw,
                                              const GradientOnStore<T, Tile>& gradient) {
  const int lane = threadIdx.x % 32, s = lane % 4 / 2;
  const int p = lane / 4 / kQuad, channel = lane / 4 % kQuad;
  const int column = channel - lane % 2 * 2;  // which of the lane's two has the same channel
  if (column == 0 || column == 1)
#pragma unroll
    for (int i = 0; i < Tile::kReach; ++i)
#pragma unroll
      for (int rows = 0; rows < Tile::kRowPairs; ++rows)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          entries.of(part, quad, i, rows, half, s, p, channel) =
              column == 0 ? dw[i][rows][2 * half] : dw[i][rows][2 * half + 1];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float t = 0.5f * sum_over_pixels(gradient.sum_t[k]);
    const float t_x = 0.5f * sum_over_pixels(gradient.sum_t_x[k]);
    if (lane >= 2) continue;
    entries.sum(part, quad, 0, 2 * lane + k) = t;
    entries.sum(part, quad, 1, 2 * lane + k) = t_x;
  }
}

// This block's row (K·K + 2, C) of partial sums, from the entries of its warps.
template <class T, class Tile>
__device__ __forceinline__ void leave_row(float* row, const Entries<Tile>& entries,
                                          const OperandView<T>& in, int first_channel) {
  constexpr int K = Tile::K, kTaps = K * K;
#pragma unroll 1
  for (int i = threadIdx.x; i < (kTaps + 2) * Tile::kChannels; i += Tile::kThreads) {
    const int at = i % Tile::kChannels, c = first_channel + at, tap = i / Tile::kChannels;
    const int quad = at / kQuad, channel = at % kQuad, ky = tap / K, kx = tap % K;
    if (c >= in.channels) continue;
    float sum = 0;
    for (int part = 0; part < Tile::kTeams; ++part) {
      if (tap >= kTaps) {
        sum += entries.sum(part, quad, tap - kTaps, channel);
        continue;
      }
      for (int reach = 0; reach < Tile::kReach; ++reach)
        for (int s = 0; s < 2; ++s)
          for (int p = 0; p < 2; ++p)
            if (Tile::tap(reach, s, p) == kx)
              sum += entries.of(part, quad, reach, Tile::rows_of(ky), Tile::half_of(ky), s, p,
                                channel);
    }
    if (tap == kTaps + 1) sum *= in.norm.channel(c).inv_std;
    row[int64_t{tap} * in.channels + c] = sum;
  }
}

// The end of a block: its row, and the merge of all rows by the last block.
template <class T, class Tile>
__device__ __forceinline__ void leave(const BackwardArguments<T>& a, int first_channel, int part,
                                      int quad, const WeightSums<Tile>& dw,
                                      const GradientOnStore<T, Tile>& gradient,
                                      unsigned char* shared) {
  constexpr int kTaps = Tile::K * Tile::K;
  const Entries<Tile> entries{reinterpret_cast<float*>(shared)};
  const int channels = a.in.channels;
  __syncthreads();  // the tiles may still be read
  leave_entries(entries, part, quad, dw, gradient);
  __syncthreads();
  leave_row(a.partials.rows + int64_t{blockIdx.y} * (kTaps + 2) * channels, entries, a.in,
            first_channel);
  if (comes_last(a.partials.done))
    finish_gradients<Tile::kThreads, Tile::kChannels, kTaps>(
        a.dweight, a.sums, a.takes_sums, a.partials.rows, static_cast<int>(gridDim.y),
        first_channel, channels, reinterpret_cast<double*>(shared));
}

// ---------------------------------------------------------------- tiles

// Offsets in shared memory: raw tiles, vectors, granules of dy, f and x, bands, constants.
template <class Tile>
struct BackwardMemory {
  static constexpr int kVectors = aligned(Tile::kImages * Tile::kChannels * 4);
  static constexpr int kDz = 0, kY = kDz + Tile::kRawBytes, kX = kY + Tile::kRawBytes,
                       kGate = kX + Tile::kInnerRawBytes, kQ = kGate + kVectors,
                       kDyTile = kQ + kVectors, kFTile = kDyTile + Tile::kWideBytes,
                       kXTile = kFTile + Tile::Inner::kBytes, kBand = kXTile + Tile::Inner::kBytes,
                       kChannelConstants = kBand + Tile::kQuads * Tile::kBands * 128,
                       kZero = kChannelConstants + kConstants * Tile::kChannels * 4,
                       kBarrier = kZero + 16, kShared = kBarrier + 16;
  // What TMA brings for a tile, in bytes.
  static constexpr int kExpected =
      2 * Tile::kRawBytes + Tile::kInnerRawBytes + 2 * Tile::kImages * Tile::kChannels * 4;
  static constexpr int kEntryBytes =
      Tile::kTeams * Tile::kQuads * (Tile::kReach * Tile::kRowPairs * 2 * 16 + 2 * kQuad) * 4;
  static_assert(Tile::kRawBytes % 128 == 0 && Tile::kInnerRawBytes % 128 == 0);
  static_assert(kEntryBytes <= kBand && Tile::kThreads * 4 * int{sizeof(double)} <= kBand,
                "room to leave and to merge sums");
  static_assert((kShared + DeviceLimits{}.reserved_bytes) * Tile::kTile.blocks <=
                DeviceLimits{}.shared_bytes);
};

// Asks for the raw tiles of a stack: dz and y at pixel (x, y) of theirs, x at the tile.
template <class Tile>
__device__ __forceinline__ void fetch_tiles(const BackwardMaps& maps, uint32_t base,
                                            const Place& place, int x, int y, int n) {
  const uint32_t barrier = base + Tile::kBarrier;
  barrier_expect(barrier, Tile::kExpected);
  load_box(base + Tile::kDz, &maps.dz, place.channel, x, y, n, barrier);
  load_box(base + Tile::kY, &maps.y, place.channel, x, y, n, barrier);
  load_box(base + Tile::kX, &maps.x, place.channel, place.left, place.top, n, barrier);
  load_box(base + Tile::kGate, &maps.gate, place.channel, n, barrier);
  load_box(base + Tile::kQ, &maps.q, place.channel, n, barrier);
}

// Zeros where pixels outside the image will be read, and the row that stands for one.
template <class Tile>
__device__ __forceinline__ void clear_tiles(unsigned char* shared) {
  constexpr int kBytes = Tile::kBand - Tile::kDyTile;
  for (int i = threadIdx.x * 16; i < kBytes; i += Tile::kThreads * 16)
    *reinterpret_cast<uint4*>(shared + Tile::kDyTile + i) = uint4{};
  if (threadIdx.x == 0) *reinterpret_cast<uint4*>(shared + Tile::kZero) = uint4{};
}

template <class T, class Tile>
__device__ __forceinline__ void prepare_bands(unsigned char* shared, const T* weight,
                                              int first_channel, int channels, int quad, int team) {
  auto* const bands = reinterpret_cast<uint32_t*>(shared + Tile::kBand) + quad * Tile::kBands * 32;
  const auto* const bits = reinterpret_cast<const uint16_t*>(weight);
  const int c = first_channel + quad * kQuad;
#pragma unroll 1
  for (int i = team; i < Tile::kBands; i += Tile::kTeams)
    bands[i * 32 + threadIdx.x % 32] =
        band<Tile::K>(bits + int64_t{c} * Tile::K * Tile::K, channels - c, i / Tile::kReach,
                      [&](int s, int p) { return Tile::tap(i % Tile::kReach, s, p); });
}

// ---------------------------------------------------------------- the host's side

// The launch of `kernel`; nothing if it cannot run here or a tensor does not lie as TMA wants.
// Boxes of dz and y have raw_pixels × raw_rows.
template <class T, class Tile, class Kernel>
Enqueue prepare_backward(Kernel* kernel, BackwardArguments<T> a, int raw_pixels, int raw_rows) {
  const OperandView<T>& in = a.in;
  a.cut = banded_cut(Tile::kTile, in.batch, in.height, in.width, in.channels, device_limits());
  const auto of_dy = [&](const T* data) {
    return boxed(data, a.dy, raw_pixels, raw_rows, Tile::kImages, Tile::kChannels);
  };
  const auto vectors = [&](const float* data) {
    return boxed(data, in.batch, in.channels, Tile::kImages, Tile::kChannels);
  };
  const BoxedTensor x =
      boxed(in.x, in, 2 * Tile::kPairs, Tile::kTileRows, Tile::kImages, Tile::kChannels);
  BackwardMaps maps;
  if (!loads(kernel, Tile::kShared) || !describe(maps.dz, of_dy(a.dy.grad)) ||
      !describe(maps.y, of_dy(a.dy.x)) || !describe(maps.x, x) ||
      !describe(maps.gate, vectors(a.dy.gate)) || !describe(maps.q, vectors(a.dy.q)))
    return {};
  return [=](cudaStream_t stream) {
    launch(kernel, dim3(a.cut.groups, a.cut.rows()), Tile::kThreads, Tile::kShared, stream, a,
           maps);
  };
}

// The launch of stride 2, whose source is banded_backward_two.cu; `row` is one of kBandedBackward.
template <class T>
Enqueue prepare_backward_two(int row, const BackwardArguments<T>& a);

}  // namespace engine::kernels::banded

// The banded backward of stride 1, and the launcher of both strides; banded_gradient.cuh says what
// they compute. A tile has two barriers: raw pixels → granules of dy, f and x; then the next raw
// tiles are asked for, and products → granules of G in the place of x, and dW in registers; then G
// leaves.
#include <utility>

#include "kernels/depthwise/banded_gradient.cuh"

namespace engine::kernels {
namespace banded {
namespace {

template <BandedTile kOf>
struct Geometry : Plane<kOf> {
  using Base = Plane<kOf>;
  // A product of dW takes two rows of f, so two rows of the window.
  static constexpr int kBands = Base::K * Base::kReach, kRowPairs = (Base::K + 1) / 2;
  static constexpr int kInnerRawRow = Base::kPairs * 2 * Base::kPixel;
  static constexpr int kInnerRawBytes = Base::kImages * Base::kTileRows * kInnerRawRow;

  // The column of the window that joins pixel s of a granule of dy to pixel p of a pair of x.
  __host__ __device__ static constexpr int tap(int reach, int s, int p) {
    return p - s + Base::K - 1 - 2 * reach;
  }
  // Where the products keep row ky of the window.
  __device__ static constexpr int rows_of(int ky) { return ky / 2; }
  __device__ static constexpr int half_of(int ky) { return ky % 2; }
};

template <BandedTile kOf>
struct BackwardTile : Geometry<kOf>, BackwardMemory<Geometry<kOf>> {};

// Raw pixels of (dz, y) → granules of dy, once for each element of the tile and its halo.
template <class T, class Tile>
struct CopyGradient {
  using Wide = typename Tile::Wide;
  using In = Walk<Tile::kThreads, Tile::kQuads, Tile::kColumns, Tile::kImages, Tile::kRawRows>;

  In walk;
  int low, high;       // the raw rows that lie in the image
  bool first, second;  // whether the pixels of the thread's pair do, in its order
  uint32_t passes, raw, to;

  __device__ __forceinline__ CopyGradient(const GradientView<T>& dy, const Place& place,
                                          uint32_t base) {
    const int pixel = first_pixel<Tile::kQuads>(walk.column);
    const int x = place.left + Tile::kRawX + 2 * walk.column, y = place.top + Tile::kRawY;
    low = max(0, -y), high = min(Tile::kRawRows, dy.height - y);
    passes = walk.passes(low, high, Tile::kImages);
    const bool present =
        place.channel + walk.quad * kQuad < dy.channels && walk.column < Tile::kRawPairs;
    first = present && x + pixel >= 0 && x + pixel < dy.width;
    second = present && x + (pixel ^ 1) >= 0 && x + (pixel ^ 1) < dy.width;
    raw = base + (walk.image() * Tile::kRawRows + walk.row()) * Tile::kRawRow +
          (walk.column * 2 + pixel) * Tile::kPixel + walk.quad * 8;
    to = base + Tile::kDyTile +
         Wide::at(walk.image(), walk.row() + Tile::kFirstRow, walk.column + Tile::kFirstPair,
                  walk.quad) +
         pixel * 8;
    keep(raw), keep(to), keep(passes);
  }

  __device__ __forceinline__ void run(const unsigned char* shared) const {
    GradientOnLoad<T, Tile> value(shared + Tile::kChannelConstants, walk.quad);
    if (Tile::kImages == 1) value.enter(shared + Tile::kGate, shared + Tile::kQ, 0, walk.quad);
#pragma unroll
    for (int i = 0; i < In::kPasses; ++i) {
      const int row = In::row_of(i), image = In::image_of(i);
      if (Tile::kImages > 1 && (i == 0 || image != In::image_of(i - 1)))
        value.enter(shared + Tile::kGate, shared + Tile::kQ, walk.image() + image, walk.quad);
      if (!(passes >> i & 1)) continue;
      const uint32_t from = raw + (image * Tile::kRawRows + row) * Tile::kRawRow;
      const uint32_t other = (raw ^ Tile::kPixel) + (image * Tile::kRawRows + row) * Tile::kRawRow;
      const uint32_t at = image * Wide::kImage + row * Wide::kRow, turn = Wide::turn(image);
      const uint2 dz0 = load_quad(from + Tile::kDz), y0 = load_quad(from + Tile::kY);
      const uint2 dz1 = load_quad(other + Tile::kDz), y1 = load_quad(other + Tile::kY);
      const uint2 v0 = value(dz0, y0), v1 = value(dz1, y1);
      if (first) store_quad((to ^ turn) + at, v0);
      if (second) store_quad((to ^ turn ^ 8) + at, v1);
    }
  }
};

// dW of a warp: products whose K dimension is pixels, of two rows of f with each row of dy.
template <class Tile>
struct WeightProducts {
  using Inner = typename Tile::Inner;
  using Wide = typename Tile::Wide;

  WeightSums<Tile> dw = {};
  // Matrices (row 0, columns 0–7), (row 1, 0–7), (row 0, 8–15), (row 1, 8–15): a lane's address in
  // rows 0 and 1; before row 0, and after the last one, stands a row of zeros.
  uint32_t from, before, last;

  __device__ __forceinline__ WeightProducts(uint32_t base, int part, int quad) {
    const int lane = threadIdx.x % 32, second = lane / 8 % 2;
    const LaneColumn<Tile> turned(part, lane % 8 + lane / 16 * 8);
    from = base + Tile::kFTile +
           Inner::at(turned.image, turned.block * kRows + second, turned.pair, quad);
    before = second == 0 ? base + Tile::kZero : from - Inner::kRow;
    last = second == 1 ? base + Tile::kZero : from + (kRows - 1) * Inner::kRow;
    keep(from), keep(before), keep(last);
  }

  template <class T>
  __device__ __forceinline__ void run(const WideReader<Tile>& dy) {
    constexpr int K = Tile::K, kReach = Tile::kReach;
    uint32_t f[kRows + 1][4];  // [i]: rows i − 1 and i
    load_transposed(f[0], before);
#pragma unroll
    for (int row = 0; row < kRows + K - 1; ++row) {
      if (row + 1 < kRows) load_transposed(f[row + 1], from + row * Inner::kRow);
      if (row + 1 == kRows) load_transposed(f[row + 1], last);
      uint32_t g[WideReader<Tile>::kLoads][4];
#pragma unroll
      for (int i = 0; i < kReach; i += 2) {
        const uint32_t at = dy.from[i / 2] + row * Wide::kRow;
        if (i + 1 < kReach) {
          load_transposed(g[i / 2], at);
        } else {
          uint32_t one[2];
          load_transposed(one, at);
          g[i / 2][0] = one[0], g[i / 2][1] = one[1];
        }
      }
#pragma unroll
      for (int j = 0; j < Tile::kRowPairs; ++j) {
        // Rows 2j and 2j + 1 of the window; where 2j + 1 = K, half of the product is not used.
        const int first = row - (K - 1) + 2 * j;
        if (first >= kRows || first < (2 * j + 1 < K ? -1 : 0)) continue;
#pragma unroll
        for (int i = 0; i < kReach; ++i)
          multiply<T>(dw[i][j], f[first + 1], g[i / 2][i % 2 * 2], g[i / 2][i % 2 * 2 + 1]);
      }
    }
  }
};

// The operand's gradient in a warp: the transposed convolution of dy, G in the place of x.
template <class T, class Tile>
__device__ __forceinline__ void operand_gradient(GradientOnStore<T, Tile>& gradient,
                                                 const WideReader<Tile>& dy, const uint32_t* bands,
                                                 uint32_t x_from, const int (&valid)[2]) {
  uint32_t b[Tile::kBands];
#pragma unroll
  for (int i = 0; i < Tile::kBands; ++i) b[i] = bands[i * 32];
  float df[kRows][4] = {};
  convolve<T, Tile, true>(df, dy, b);
  gradient.template run<Tile::Inner::kRow>(df, x_from, valid);
}

template <class T, class Tile>
__device__ __forceinline__ void run_backward(const BackwardArguments<T>& a,
                                             const BackwardMaps& maps) {
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared);
  const int lane = threadIdx.x % 32, quad = threadIdx.x / 32 % Tile::kQuads,
            part = threadIdx.x / 32 / Tile::kQuads;  // the warp's
  const Place place = Place::of<Tile>(a.cut);
  const auto fetch = [&](int n) {
    fetch_tiles<Tile>(maps, base, place, place.left + Tile::kRawX, place.top + Tile::kRawY, n);
  };
  if (threadIdx.x == 0) barrier_init(base + Tile::kBarrier, 1);
  clear_tiles<Tile>(shared);
  prepare_bands<T, Tile>(shared, a.weight, place.channel, a.in.channels, quad, part);
  follow();
  if (threadIdx.x == 0) fetch(place.stack);
  prepare_constants<T, Tile>(reinterpret_cast<float*>(shared + Tile::kChannelConstants), a,
                             place.channel);
  GradientOnStore<T, Tile> gradient(a.in, place.channel + quad * kQuad + lane % 2 * 2);
  __syncthreads();

  CopyGradient<T, Tile> copy_gradient(a.dy, place, base);
  CopyOut<T, Tile> copy_out(place, a.in.channels, a.in.height, a.in.width, a.pitch);
  const CopyOperand<T, Tile> copy_operand(copy_out, base);
  keep(copy_out.to), keep(copy_out.passes);
  const WideReader<Tile> dy(base + Tile::kDyTile, part, quad);
  WeightProducts<Tile> weight(base, part, quad);
  const LaneColumn<Tile> mine(part, lane % 16);
  uint32_t x_from = base + Tile::kXTile +
                    Tile::Inner::at(mine.image, mine.block * kRows + lane / 16, mine.pair, quad);
  int valid[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    valid[h] =
        LaneColumn<Tile>(part, lane / 4 + 8 * h).rows(lane % 4 / 2, place, a.in.width, a.in.height);
    keep(valid[h]);
  }
  keep(x_from);
  const auto* const bands =
      reinterpret_cast<const uint32_t*>(shared + Tile::kBand) + quad * Tile::kBands * 32 + lane;

  uint32_t phase = 0;
#pragma unroll 1
  for (int n = place.stack; n < a.in.batch; n += place.step) {
    const int images = min(Tile::kImages, a.in.batch - n);
    if (images < Tile::kImages) {  // the batch's last: nothing of older images may stay
      __syncthreads();
      clear_tiles<Tile>(shared);
      copy_gradient.passes =
          copy_gradient.walk.passes(copy_gradient.low, copy_gradient.high, images);
      copy_out.passes = copy_out.taken(place, images);
      __syncthreads();
    }
    barrier_wait(base + Tile::kBarrier, phase);
    phase ^= 1;
    copy_gradient.run(shared);
    copy_operand.run(shared + Tile::kChannelConstants, copy_out.passes);
    __syncthreads();
    if (threadIdx.x == 0 && n + place.step < a.in.batch) fetch(n + place.step);
    operand_gradient<T, Tile>(gradient, dy, bands, x_from, valid);
    weight.template run<T>(dy);
    __syncthreads();
    T* const to = a.grad + int64_t{n} * a.in.height * copy_out.row_size;
    if (Tile::kTile.act == Activation::none && a.how == Write::add)
      copy_out.template run<true>(to, copy_operand.granule());
    else
      copy_out.run(to, copy_operand.granule());
  }
  leave<T, Tile>(a, place.channel, part, quad, weight.dw, gradient, shared);
}

template <class T, int kRow>
__global__ void __launch_bounds__(BackwardTile<kBandedBackward[kRow]>::kThreads,
                                  kBandedBackward[kRow].blocks)
    banded_backward_kernel(BackwardArguments<T> a, const __grid_constant__ BackwardMaps maps) {
#if __CUDA_ARCH__ >= 900
  run_backward<T, BackwardTile<kBandedBackward[kRow]>>(a, maps);
#endif
}

template <class T, int kRow>
Enqueue prepare_row(const BackwardArguments<T>& a) {
  using Tile = BackwardTile<kBandedBackward[kRow]>;
  if constexpr (kBandedBackward[kRow].stride == 1)
    return prepare_backward<T, Tile>(banded_backward_kernel<T, kRow>, a, 2 * Tile::kRawPairs,
                                     Tile::kRawRows);
  else
    return {};
}

template <class T, size_t... kRow>
Enqueue prepare_rows(int row, const BackwardArguments<T>& a, std::index_sequence<kRow...>) {
  Enqueue enqueue;
  ((row == int{kRow} && (enqueue = prepare_row<T, int{kRow}>(a), true)) || ...);
  return enqueue;
}

// Whether the sink takes what the kernels leave: G alone, added to only where the operand has no
// activation.
template <class T>
bool takes(const GradientSink<T>& sink, const OperandView<T>& in) {
  return sink.grad && !sink.gated() && quads_fit(sink.grad, in.channels, sink.pitch) &&
         (sink.how == Write::assign || in.act == Activation::none);
}

}  // namespace
}  // namespace banded

template <class T>
Enqueue BandedBackward<T>::prepare(const GradientSink<T>& sink, float* dweight,
                                   const GradientView<T>& dy, const OperandView<T>& in,
                                   const T* weight, Window window, const Partials& partials) {
  const int row = banded_row(kBandedBackward, window, in.act, in.height, in.width);
  const bool gated = dy.gated() && dy.normed() && dy.k0 && dy.act == Activation::silu;
  const bool fits = in.norm.present() && !in.gate && !in.random.present() &&
                    banded::quads_fit(in.x, in.channels, in.pitch);
  if (row < 0 || !gated || !fits || !banded::takes(sink, in)) return {};
  const banded::BackwardArguments<T> a{
      sink.grad, sink.pitch, sink.how, takes_sums(sink), norm_sums(sink, in), dweight, dy, in,
      weight,    partials,   {}};
  constexpr auto kRows = std::make_index_sequence<std::size(kBandedBackward)>{};
  return window.stride == 1 ? banded::prepare_rows<T>(row, a, kRows)
                            : banded::prepare_backward_two<T>(row, a);
}

template struct BandedBackward<__half>;
template struct BandedBackward<__nv_bfloat16>;

}  // namespace engine::kernels

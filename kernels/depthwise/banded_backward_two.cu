// The banded backward of stride 2; banded_gradient.cuh says what it computes, banded_backward.cu
// how a tile goes. A cell is 2 × 2 pixels of x, which meet the same pixels of dy. The two teams of
// four warps share a tile: team r makes the gradient of the rows of parity r, and dW of every
// second row of cells.
#include <utility>

#include "kernels/depthwise/banded_gradient.cuh"

namespace engine::kernels::banded {

// A tile is kImages images of seven rows of kPairs cells. A pair of x meets dy at every pixel, not
// at every second: a granule of dy holds pixels i and i + 1, and each pixel is kept twice.
template <BandedTile kOf>
struct CellGeometry {
  static constexpr BandedTile kTile = kOf;
  static constexpr int kQuads = kOf.quads, kChannels = kOf.channels(), kPixel = kQuads * 8;
  static constexpr int K = kOf.kernel, P = K / 2, S = 1;  // S: of the reader, granule by granule
  static constexpr int kImages = kOf.images, kBlocks = 1, kPairs = kOf.pairs;
  static constexpr int kColumns = kOf.columns, kTileRows = kOf.rows(), kReach = K == 3 ? 1 : 2;
  static constexpr bool kWhole = kOf.whole();
  static constexpr int kTeams = 2, kThreads = 32 * kQuads * kTeams;
  static_assert(kTileRows == 2 * kRows && kImages * kColumns == kMatrixRows);
  // Rows of dy that a row of cells meets, and the first of them (as of the pixels), from the cell.
  static constexpr int kRowReach = K == 3 ? 2 : 3, kFirst = K == 3 ? 0 : -1;
  static constexpr int kBands = K * kReach, kRowPairs = kRowReach;

  static constexpr int kDyRows = kRows + kRowReach - 1, kDyPairs = kPairs + kReach - 1;
  using Wide = Granules<kQuads, kImages, kDyRows, kDyPairs>;
  using Inner = Granules<kQuads, kImages, kTileRows, kColumns>;
  static constexpr int kWideBytes = aligned(Wide::kBytes);

  // Raw dy, in pixels: where it begins in the tile, and where from the tile's first cell.
  static constexpr int kFirstRaw = kWhole ? -kFirst : 0, kRawAt = kWhole ? 0 : kFirst;
  static constexpr int kRawRows = kWhole ? kRows : kDyRows;
  static constexpr int kRawPixels = kWhole ? kColumns : kDyPairs + 1;
  static constexpr int kRawRow = kRawPixels * kPixel, kRawBytes = kImages * kRawRows * kRawRow;
  static constexpr int kInnerRawRow = kPairs * 2 * kPixel;
  static constexpr int kInnerRawBytes = kImages * kTileRows * kInnerRawRow;

  // The column of the window that joins pixel s of a granule of dy to pixel p of a pair of x; −1:
  // none.
  __host__ __device__ static constexpr int tap(int reach, int s, int p) {
    const int granule = reach + (K == 3 ? 1 : 0);
    if (K == 5 && reach == 0 && s == 1) return -1;  // the next granule holds that pixel too
    return p + P + 2 - 2 * granule - 2 * s;
  }
  // The row of the window that joins row `row` of dy to x's row of `parity` in cell y.
  __device__ static constexpr int window_row(int row, int y, int parity) {
    return parity + P - 2 * (row - y + kFirst);
  }
  // Where the products keep row ky of the window: the parity of x's rows that it joins to a row of
  // dy, and how far below the cell that row lies.
  __device__ static constexpr int half_of(int ky) { return (ky + P) % 2; }
  __device__ static constexpr int rows_of(int ky) { return (half_of(ky) + P - ky) / 2 - kFirst; }
};

namespace {

template <BandedTile kOf>
struct BackwardTile : CellGeometry<kOf>, BackwardMemory<CellGeometry<kOf>> {};

// Raw pixels of (dz, y) → granules of dy, once for each element of the tile and its halo.
template <class T, class Tile>
struct CopyGradient {
  using Wide = typename Tile::Wide;
  using In = Walk<Tile::kThreads, Tile::kQuads, Tile::kColumns, Tile::kImages, Tile::kRawRows>;

  In walk;
  int low, high;       // the raw rows that lie in the image
  bool first, second;  // whether the thread's pixel is the first, and the second, of a granule
  uint32_t passes, raw, to_first, to_second;

  __device__ __forceinline__ CopyGradient(const GradientView<T>& dy, const Place& place,
                                          uint32_t base) {
    const int column = walk.column, at = column + Tile::kFirstRaw;
    const int x = place.left / 2 + Tile::kRawAt + column, y = place.top / 2 + Tile::kRawAt;
    low = max(0, -y), high = min(Tile::kRawRows, dy.height - y);
    passes = walk.passes(low, high, Tile::kImages);
    const bool here = place.channel + walk.quad * kQuad < dy.channels &&
                      column < Tile::kRawPixels && x >= 0 && x < dy.width;
    first = here && at < Tile::kDyPairs, second = here && at > 0;
    raw = base + (walk.image() * Tile::kRawRows + walk.row()) * Tile::kRawRow +
          column * Tile::kPixel + walk.quad * 8;
    const auto granule = [&](int pair) {
      return base + Tile::kDyTile +
             Wide::at(walk.image(), walk.row() + Tile::kFirstRaw, pair, walk.quad);
    };
    to_first = granule(at), to_second = granule(max(0, at - 1)) + 8;
    keep(raw), keep(to_first), keep(to_second), keep(passes);
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
      const uint32_t at = image * Wide::kImage + row * Wide::kRow, turn = Wide::turn(image);
      const uint2 v = value(load_quad(from + Tile::kDz), load_quad(from + Tile::kY));
      if (first) store_quad((to_first ^ turn) + at, v);
      if (second) store_quad((to_second ^ turn) + at, v);
    }
  }
};

// df of x's rows of one parity.
template <class T, class Tile, int kParity>
__device__ __forceinline__ void transposed_rows(float (&df)[kRows][4], uint32_t dy_from,
                                                const uint32_t* bands) {
  constexpr int K = Tile::K, kReach = Tile::kReach;
  uint32_t b[Tile::kBands] = {};
#pragma unroll
  for (int ky = (Tile::P + kParity) % 2; ky < K; ky += 2)
#pragma unroll
    for (int i = 0; i < kReach; ++i) b[ky * kReach + i] = bands[(ky * kReach + i) * 32];
#pragma unroll
  for (int row = 0; row < Tile::kDyRows; ++row) {
    uint32_t g[2 * kReach];
    load_matrices(g, dy_from + row * Tile::Wide::kRow);
#pragma unroll
    for (int y = 0; y < kRows; ++y) {
      const int ky = Tile::window_row(row, y, kParity);
      if (ky < 0 || ky >= K || row < y || row >= y + Tile::kRowReach) continue;
      if constexpr (kReach == 2)
        multiply<T>(df[y], g, b[ky * kReach], b[ky * kReach + 1]);
      else
        multiply<T>(df[y], g, b[ky]);
    }
  }
}

// dW of a warp: products whose K dimension is pixels, of both rows of a row of cells with each row
// of dy that it meets; team r takes cells r, r + 2, …
template <class T, class Tile>
__device__ __forceinline__ void weight_products(WeightSums<Tile>& dw, uint32_t f_from,
                                                uint32_t dy_from, int team) {
  constexpr int kReach = Tile::kReach;
#pragma unroll
  for (int j = 0; j < kRows; j += 2) {
    if (j + 1 == kRows && team == 1) break;
    uint32_t f[4];
    load_transposed(f, f_from + 2 * j * Tile::Inner::kRow);
#pragma unroll
    for (int r = 0; r < Tile::kRowReach; ++r) {
      uint32_t g[2 * kReach];
      load_transposed(g, dy_from + (j + r) * Tile::Wide::kRow);
#pragma unroll
      for (int i = 0; i < kReach; ++i) multiply<T>(dw[i][r], f, g[2 * i], g[2 * i + 1]);
    }
  }
}

template <class T, class Tile>
__device__ __forceinline__ void run_backward(const BackwardArguments<T>& a,
                                             const BackwardMaps& maps) {
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared);
  const int lane = threadIdx.x % 32, quad = threadIdx.x / 32 % Tile::kQuads,
            team = threadIdx.x / 32 / Tile::kQuads;  // the warp's
  const Place place = Place::of<Tile>(a.cut);
  const auto fetch = [&](int n) {
    fetch_tiles<Tile>(maps, base, place, place.left / 2 + Tile::kRawAt,
                      place.top / 2 + Tile::kRawAt, n);
  };
  if (threadIdx.x == 0) barrier_init(base + Tile::kBarrier, 1);
  clear_tiles<Tile>(shared);
  prepare_bands<T, Tile>(shared, a.weight, place.channel, a.in.channels, quad, team);
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
  const LaneColumn<Tile> mine(0, lane % 16), turned(0, lane % 8 + lane / 16 * 8);
  const WideReader<Tile> dy(base + Tile::kDyTile, 0, quad);
  uint32_t x_from =
      base + Tile::kXTile + Tile::Inner::at(mine.image, team + lane / 16 * 2, mine.pair, quad);
  // Matrices (row 0 of a cell, columns 0–7), (row 1, 0–7), (row 0, 8–15), (row 1, 8–15).
  uint32_t f_from = base + Tile::kFTile +
                    Tile::Inner::at(turned.image, lane / 8 % 2 + 2 * team, turned.pair, quad);
  uint32_t dy_of_f = dy.from[0] + team * Tile::Wide::kRow;
  int valid[2];  // rows of the team's parity that lie in the image
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const LaneColumn<Tile> column(0, lane / 4 + 8 * h);
    const bool inside =
        column.pair < Tile::kPairs && place.left + 2 * column.pair + lane % 4 / 2 < a.in.width;
    valid[h] = inside ? max(0, min(kRows, (a.in.height - place.top - team + 1) / 2)) : 0;
    keep(valid[h]);
  }
  keep(x_from), keep(f_from), keep(dy_of_f);
  const auto* const bands =
      reinterpret_cast<const uint32_t*>(shared + Tile::kBand) + quad * Tile::kBands * 32 + lane;

  WeightSums<Tile> dw = {};
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
    {
      float df[kRows][4] = {};
      if (team == 0)
        transposed_rows<T, Tile, 0>(df, dy.from[0], bands);
      else
        transposed_rows<T, Tile, 1>(df, dy.from[0], bands);
      gradient.template run<2 * Tile::Inner::kRow>(df, x_from, valid);
    }
    weight_products<T, Tile>(dw, f_from, dy_of_f, team);
    __syncthreads();
    copy_out.run(a.grad + int64_t{n} * a.in.height * copy_out.row_size, copy_operand.granule());
  }
  leave<T, Tile>(a, place.channel, team, quad, dw, gradient, shared);
}

template <class T, int kRow>
__global__ void __launch_bounds__(BackwardTile<kBandedBackward[kRow]>::kThreads,
                                  kBandedBackward[kRow].blocks)
    banded_backward_two_kernel(BackwardArguments<T> a, const __grid_constant__ BackwardMaps maps) {
#if __CUDA_ARCH__ >= 900
  run_backward<T, BackwardTile<kBandedBackward[kRow]>>(a, maps);
#endif
}

template <class T, int kRow>
Enqueue prepare_row(const BackwardArguments<T>& a) {
  using Tile = BackwardTile<kBandedBackward[kRow]>;
  if constexpr (kBandedBackward[kRow].stride == 2)
    return prepare_backward<T, Tile>(banded_backward_two_kernel<T, kRow>, a, Tile::kRawPixels,
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

}  // namespace

template <class T>
Enqueue prepare_backward_two(int row, const BackwardArguments<T>& a) {
  return prepare_rows<T>(row, a, std::make_index_sequence<std::size(kBandedBackward)>{});
}

template Enqueue prepare_backward_two(int, const BackwardArguments<__half>&);
template Enqueue prepare_backward_two(int, const BackwardArguments<__nv_bfloat16>&);

}  // namespace engine::kernels::banded

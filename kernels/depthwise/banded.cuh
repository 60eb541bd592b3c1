// Depthwise convolutions of 16-bit types on the matrix units: what both directions share.
//
// A warp owns a QUAD of four channels. Values lie in shared memory as GRANULES of 16 bytes: two
// pixels beside each other × four channels, a row of an 8 × 8 matrix of `ldmatrix`. With a granule
// as the K dimension of a product, a depthwise convolution is a product with small banded matrices
//     B[(s, c)][(p, c')] = w[c][ky][kx] if c = c' and kx joins input pixel s to output pixel p,
// one for each row of the window and each of the few granules that a pair of outputs reaches. A
// quarter of such a matrix is not zero, which beats scalar arithmetic four times over: 128 outputs
// of a 5 × 5 window take ten products, not a hundred multiply-adds; sums are in float, and nothing
// is transposed. The gradient of the weight is the same picture turned: pixels are the K dimension
// (`ldmatrix.trans`), and of each product the entries with c = c' are kept. What is multiplied is
// rounded to the storage type, as for a library. A value that is not finite spreads over its quad:
// zeros of a matrix times it are not zero.
//
// A block keeps its channels and its place in the image and walks through stacks of images. So
// padding is zeroed once, addresses are computed once, and gradients of weights and sums stay in
// registers to the end. Raw tiles come by TMA while the block computes on the one before.
//
// The threads that transform have a fixed quad and a fixed pair and walk down the rows: an address
// is a thread's constant plus an immediate, and so is whether a pixel lies in the image. What lies
// outside is never written and stays zero.
#pragma once

#include "kernels/banded_tiles.h"
#include "kernels/copies.cuh"
#include "kernels/device.cuh"
#include "kernels/launch.cuh"
#include "kernels/matrix.cuh"

namespace engine::kernels::banded {

constexpr int kQuad = kBandedQuad, kRows = kBandedRows;
constexpr int kMatrixRows = 16;  // columns, pairs of pixels each, that a warp multiplies at a time
constexpr unsigned kAll = 0xffffffff;

constexpr int aligned(int bytes) {
  return (bytes + 127) / 128 * 128;  // as TMA wants it
}

// ---------------------------------------------------------------- activation

// With half = u/2 and t = tanh(half), one special function each:
//   silu(u) = half + half·t      2·silu'(u) = 1 + t + half·(1 − t²)
// and t = 1 leaves the identity.
template <Activation kAct>
__device__ __forceinline__ float bend(float half) {
  return kAct == Activation::silu ? tanh_approximate(half) : 1.f;
}
template <Activation kAct>
__device__ __forceinline__ float value_of_half(float half) {
  return fmaf(half, bend<kAct>(half), half);
}
template <Activation kAct>
__device__ __forceinline__ float twice_slope_of_half(float half) {
  const float t = bend<kAct>(half);
  return fmaf(half, fmaf(-t, t, 1.f), 1.f + t);
}

// u/2 = scale·x + shift.
struct HalfNorm {
  float scale = 0, shift = 0;
};
__device__ __forceinline__ HalfNorm half_norm(const ChannelNorm<float>& norm) {
  const float scale = 0.5f * norm.scale();
  return {scale, fmaf(-norm.mean, scale, 0.5f * norm.beta)};
}

// ---------------------------------------------------------------- granules in shared memory

// (images, rows, pairs, quads) granules. Eight pairs of one quad in a row lie in eight different
// groups of banks, and so do the four quads of two pairs.
template <int kQuads, int kImages, int kTileRows, int kPairs>
struct Granules {
  static constexpr int kPair = (kQuads == 4 ? 4 : kQuads | 1) * 16;  // bytes
  static constexpr int kRow = kPairs * kPair, kImage = kTileRows * kRow, kBytes = kImages * kImage;

  __device__ static __forceinline__ int at(int image, int row, int pair, int quad) {
    const int slot = kQuads == 4 ? quad ^ (((pair >> 1) + 2 * image) & 3) : quad;
    return image * kImage + row * kRow + pair * kPair + slot * 16;
  }
  // at() of an image further on is the address ^ turn(images) plus whole images.
  __device__ static constexpr uint32_t turn(int images) { return images % 2 == 0 ? 0 : 32; }
};

// ---------------------------------------------------------------- tiles

// The tile of a convolution: of stride 1 its input and output have the same pixels, of stride 2
// rows and pairs are the output's.
template <BandedTile kOf>
struct Plane {
  static constexpr BandedTile kTile = kOf;
  static constexpr int kQuads = kOf.quads, kChannels = kOf.channels(), kPixel = kQuads * 8;
  static constexpr int K = kOf.kernel, P = K / 2, S = kOf.stride;
  static constexpr int kImages = kOf.images, kBlocks = kOf.row_blocks, kPairs = kOf.pairs;
  static constexpr int kColumns = kOf.columns, kInColumns = S * kColumns, kTileRows = kOf.rows();
  static constexpr bool kWhole = kOf.whole();
  // The granules of a row that a pair of outputs reaches.
  static constexpr int kReach = S == 1 ? (K + 1) / 2 : (K == 3 ? 3 : 4);
  // The warps that share a quad: those that multiply, and all. There are few outputs to an input of
  // stride 2: half of the warps multiply, all of them transform.
  static constexpr int kParts = kImages * kBlocks * kColumns / kMatrixRows;
  static constexpr int kTeams = S * kParts, kThreads = 32 * kQuads * kTeams;

  // The input with its halo, and what has none.
  static constexpr int kHaloRows = (kTileRows - 1) * S + K;
  static constexpr int kHaloPairs = (kPairs - 1) * S + kReach;
  using Wide = Granules<kQuads, kImages, kHaloRows, kHaloPairs>;
  using Inner = Granules<kQuads, kImages, kTileRows, kColumns>;
  static constexpr int kWideBytes = aligned(Wide::kBytes);

  // The raw input: its rows and pairs, where they begin in the wide tile, and where from the first
  // pixel of the tile.
  static constexpr bool kEven = S == 2 || K == 5;  // a whole image begins with a pair of its own
  static constexpr int kFirstRow = kWhole ? P : 0, kFirstPair = kWhole && kEven ? 1 : 0;
  static constexpr int kRawRows = kWhole ? S * kTileRows : kHaloRows;
  static constexpr int kRawPairs = !kWhole ? kHaloPairs : S == 1 ? kColumns : kOf.side;
  static constexpr int kRawX = kWhole && kEven ? 0 : S == 1 ? -P : -2, kRawY = kWhole ? 0 : -P;
  static constexpr int kRawRow = kRawPairs * 2 * kPixel, kRawBytes = kImages * kRawRows * kRawRow;
};

// The place of a block: its first channel, its tile's first pixel, and the images between its
// stacks.
struct Place {
  int channel, top, left, stack, step;

  // blockIdx.x is the group of channels, blockIdx.y the row of partial sums.
  template <class Tile>
  __device__ static __forceinline__ Place of(const BandedCut& cut) {
    const int places = cut.tiles_x * cut.tiles_y, at = static_cast<int>(blockIdx.y) % places;
    return {static_cast<int>(blockIdx.x) * Tile::kChannels, at / cut.tiles_x * Tile::kTileRows,
            at % cut.tiles_x * Tile::kPairs * 2,
            static_cast<int>(blockIdx.y) / places * Tile::kImages, cut.splits * Tile::kImages};
  }
};

// ---------------------------------------------------------------- walks of the threads

// A thread's places in a phase that takes a quad of a pair (or pixel) at a time: its column is
// fixed, its rows lie apart.
template <int kThreads, int kQuads, int kColumns, int kImages, int kTileRows>
struct Walk {
  static constexpr int kStep = kThreads / kQuads / kColumns;  // rows between a thread's
  static constexpr bool kOneRow = kStep > kTileRows;          // of an image
  // Rows set aside for an image, so that a thread's images and rows are constants.
  static constexpr int kImageRows = kOneRow ? 8 : (kTileRows + kStep - 1) / kStep * kStep;
  static constexpr int kPasses = (kImages * kImageRows + kStep - 1) / kStep;
  static_assert(kOneRow ? kStep % kImageRows == 0 : kImageRows % kStep == 0);

  int quad = threadIdx.x % kQuads, column = threadIdx.x / kQuads % kColumns;
  int first = threadIdx.x / kQuads / kColumns;

  // Pass i is row row() + row_of(i) of image image() + image_of(i).
  __device__ __forceinline__ int row() const { return kOneRow ? first % kImageRows : first; }
  __device__ __forceinline__ int image() const { return kOneRow ? first / kImageRows : 0; }
  __device__ static constexpr int row_of(int i) { return kOneRow ? 0 : kStep * i % kImageRows; }
  __device__ static constexpr int image_of(int i) {
    return kOneRow ? kStep / kImageRows * i : kStep * i / kImageRows;
  }

  // Bit i: pass i is a row in [low, high) of one of `images` images.
  __device__ __forceinline__ uint32_t passes(int low, int high, int images) const {
    uint32_t mask = 0;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int y = row() + row_of(i);
      const bool taken = y >= low && y < high && image() + image_of(i) < images;
      mask |= (taken ? 1u : 0u) << i;
    }
    return mask;
  }
};

// The order of the two pixels of a pair: half of the threads take the second one first, so that
// neither reads nor writes of 8 bytes meet in a bank.
template <int kQuads>
__device__ __forceinline__ int first_pixel(int column) {
  return (kQuads == 4 ? column / 2 : column) & 1;
}

// From granules in shared memory to the pixels of a tensor: the last phase of a tile.
template <class T, class Tile>
struct CopyOut {
  using Inner = typename Tile::Inner;
  using Out = Walk<Tile::kThreads, Tile::kQuads, Tile::kColumns, Tile::kImages, Tile::kTileRows>;

  Out walk;
  bool here, both;  // the first pixel of the thread's pair lies in the image; the second too
  uint32_t passes;
  int height, row_size, pitch, to;

  __device__ __forceinline__ CopyOut(const Place& place, int channels, int image_height, int width,
                                     int out_pitch)
      : height(image_height), row_size(width * out_pitch), pitch(out_pitch) {
    const int c = place.channel + walk.quad * kQuad, x = place.left + 2 * walk.column;
    here = c < channels && walk.column < Tile::kPairs && x < width;
    both = here && x + 1 < width;
    to = ((walk.image() * height + place.top + walk.row()) * width + x) * pitch + c;
    passes = taken(place, Tile::kImages);
  }

  __device__ __forceinline__ uint32_t taken(const Place& place, int images) const {
    return walk.passes(0, min(Tile::kTileRows, height - place.top), images);
  }
  __device__ __forceinline__ int granule() const {
    return Inner::at(walk.image(), walk.row(), walk.column, walk.quad);
  }

  // image: the tensor at the first image of the stack; from: the thread's first granule. kAdd:
  // adds to what is there.
  template <bool kAdd = false>
  __device__ __forceinline__ void run(T* image, uint32_t from) const {
    const auto taken = [&](int i) { return here && (passes >> i & 1); };
    const auto pixel = [&](int i) {
      return image + to + (Out::image_of(i) * height + Out::row_of(i)) * row_size;
    };
    uint2 old[kAdd ? Out::kPasses : 1][2] = {};
    if constexpr (kAdd) {  // all are under way before the first is used
#pragma unroll
      for (int i = 0; i < Out::kPasses; ++i) {
        if (taken(i)) old[i][0] = *reinterpret_cast<const uint2*>(pixel(i));
        if (taken(i) && both) old[i][1] = *reinterpret_cast<const uint2*>(pixel(i) + pitch);
      }
    }
#pragma unroll
    for (int i = 0; i < Out::kPasses; ++i) {
      if (!taken(i)) continue;
      const int images = Out::image_of(i);
      const uint4 v = load_granule((from ^ Inner::turn(images)) + images * Inner::kImage +
                                   Out::row_of(i) * Inner::kRow);
      uint2 first{v.x, v.y}, second{v.z, v.w};
      if constexpr (kAdd) first = sum(first, old[i][0]), second = sum(second, old[i][1]);
      *reinterpret_cast<uint2*>(pixel(i)) = first;
      if (both) *reinterpret_cast<uint2*>(pixel(i) + pitch) = second;
    }
  }

 private:
  __device__ __forceinline__ static uint2 sum(uint2 a, uint2 b) {
    float to[kQuad], more[kQuad];
    unpack<T>(to, a);
    unpack<T>(more, b);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) to[k] += more[k];
    return pack<T>(to);
  }
};

// ---------------------------------------------------------------- what a warp multiplies

// The register of a banded matrix B[(s, c)][(p, c')] in this lane, which holds k = 2·(lane % 4) +
// {0, 1} of column n = lane / 4. tap(s, p): the column of the window that joins them, or out of
// range. weights: the bits of (channels, K, K), at the quad's first channel.
template <int K, class Tap>
__device__ __forceinline__ uint32_t band(const uint16_t* weights, int channels, int ky, Tap tap) {
  const int lane = threadIdx.x % 32, n = lane / 4, k = 2 * (lane % 4);
  const int p = n / kQuad, channel = n % kQuad, kx = tap(k / kQuad, p);
  const int half = channel - k % kQuad;  // of the register, that meets its own channel
  if (half < 0 || half > 1 || kx < 0 || kx >= K || channel >= channels) return 0;
  return static_cast<uint32_t>(weights[(channel * K + ky) * K + kx]) << (16 * half);
}

// One of the 16 columns of a warp: a pair of pixels of a block of rows of an image.
template <class Tile>
struct LaneColumn {
  int image, block, pair;

  __device__ __forceinline__ LaneColumn(int part, int column) {
    const int k = part * (kMatrixRows / Tile::kColumns) + column / Tile::kColumns;
    pair = column % Tile::kColumns, block = k % Tile::kBlocks, image = k / Tile::kBlocks;
  }
  // How many rows of the column lie in an image of that height, for pixel `second` of the pair.
  __device__ __forceinline__ int rows(int second, const Place& place, int width, int height) const {
    const bool inside = pair < Tile::kPairs && place.left + 2 * pair + second < width;
    return inside ? max(0, min(kRows, height - place.top - block * kRows)) : 0;
  }
};

// Where a lane's ldmatrix of the wide tile reads: two granules of the reach in each.
template <class Tile>
struct WideReader {
  static constexpr int kLoads = (Tile::kReach + 1) / 2;
  uint32_t from[kLoads];

  __device__ __forceinline__ WideReader(uint32_t tile, int part, int quad) {
    const int lane = threadIdx.x % 32;
    const LaneColumn<Tile> mine(part, lane % 16);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int pair = mine.pair * Tile::S + min(2 * i + lane / 16, Tile::kReach - 1);
      from[i] = tile + Tile::Wide::at(mine.image, mine.block * kRows * Tile::S, pair, quad);
      keep(from[i]);
    }
  }
};

// acc (row, 16 columns × 8) += the banded product of the wide tile; kFlip: the transposed
// convolution.
template <class T, class Tile, bool kFlip>
__device__ __forceinline__ void convolve(float (&acc)[kRows][4], const WideReader<Tile>& reader,
                                         const uint32_t (&b)[Tile::K * Tile::kReach]) {
  constexpr int K = Tile::K, S = Tile::S, kReach = Tile::kReach;
#pragma unroll
  for (int row = 0; row < (kRows - 1) * S + K; ++row)
#pragma unroll
    for (int i = 0; i < kReach; i += 2) {
      uint32_t two[4], one[2];
      if (i + 1 < kReach)
        load_matrices(two, reader.from[i / 2] + row * Tile::Wide::kRow);
      else
        load_matrices(one, reader.from[i / 2] + row * Tile::Wide::kRow);
#pragma unroll
      for (int y = 0; y < kRows; ++y) {
        const int ky = row - y * S;
        if (ky < 0 || ky >= K) continue;
        const int at = (kFlip ? K - 1 - ky : ky) * kReach + i;
        if (i + 1 < kReach)
          multiply<T>(acc[y], two, b[at], b[at + 1]);
        else
          multiply<T>(acc[y], one, b[at]);
      }
    }
}

// The sum over the sixteen lanes that hold the same two channels of a product.
__device__ __forceinline__ float sum_over_pixels(float v) {
#pragma unroll
  for (int offset = 2; offset < 32; offset *= 2) v += __shfl_xor_sync(kAll, v, offset);
  return v;
}

// ---------------------------------------------------------------- the host's side

// Boxes of `pixels` × `rows` × `images` of a view's channels, and of its (N, C) vectors.
template <class T, class View>
BoxedTensor boxed(const T* data, const View& v, int pixels, int rows, int images, int channels) {
  constexpr bool kHalf = std::is_same_v<T, __half>;
  const int64_t pixel = int64_t{v.pitch} * sizeof(T), row = pixel * v.width;
  return {data,
          kHalf ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
          4,
          {v.channels, v.width, v.height, v.batch},
          {sizeof(T), pixel, row, row * v.height},
          {channels, pixels, rows, images}};
}
inline BoxedTensor boxed(const float* data, int batch, int channels, int images, int of_box) {
  return {data,
          CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
          2,
          {channels, batch},
          {sizeof(float), int64_t{channels} * int64_t{sizeof(float)}},
          {of_box, images}};
}

// Whether the kernel can run here with so much shared memory: its code is of sm_90 at least.
template <class Kernel>
bool loads(Kernel* kernel, int shared_bytes) {
  cudaFuncAttributes attributes{};
  const bool fits =
      cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90 &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) ==
          cudaSuccess;
  cudaGetLastError();  // what failed here fails nothing else
  return fits;
}

// Four channels of a pixel are read and written at once.
template <class T>
bool quads_fit(const T* data, int channels, int pitch) {
  return channels % kQuad == 0 && pitch % kQuad == 0 &&
         reinterpret_cast<uintptr_t>(data) % (kQuad * sizeof(T)) == 0;
}

}  // namespace engine::kernels::banded

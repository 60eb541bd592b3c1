// Pointwise convolution, the gradient of the weight: dweight (C', C) = dyᵀ · f, with dy made from
// (G_y, y) and f from x on load, so that neither is ever in memory. For each pixel it moves, in
// values of T, C' (G_y), C' more with a norm (y), and C (x); where dweight is cut into several
// rectangles, each reads its sides again, from L2. A split of the pixels leaves its sums in fp32,
// (C', C), and a small kernel adds the splits in their order.
//
// A block goes through its pixels in steps of 32. What a thread wants of the next steps it copies
// ahead, asynchronously, into places of its own, so that nobody waits for another's copies. From
// there it transforms them into a tile, pixel by pixel, which the whole block multiplies. There are
// two tiles, hence one barrier a step: a warp that is done with its products goes on to the next
// step's values while others still multiply. Pixels are the inner dimension of the product, so the
// fragments of both sides are read transposed. A pixel of a tile takes an odd number of packs: the
// eight pixels of a matrix then lie in different banks.
#include "kernels/gemm/source.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge_rows.cuh"

namespace engine::kernels {
namespace {

// The part of dweight, and of the pixels, that a block takes.
struct WgradBlock {
  int row0, column0;  // channels of dy and of f
  int begin, end;     // pixels

  __device__ __forceinline__ WgradBlock(const WgradCut& cut, int pixels)
      : row0(static_cast<int>(blockIdx.x) / cut.columns.blocks * cut.rows.packs * kPack),
        column0(static_cast<int>(blockIdx.x) % cut.columns.blocks * cut.columns.packs * kPack),
        begin(static_cast<int>(blockIdx.y) * cut.per),
        end(min(begin + cut.per, pixels)) {}
};

// What one thread copies and transforms: one pack of channels of dy or of f, at every `step`th
// pixel.
template <class T>
class WgradLoader {
 public:
  __device__ __forceinline__ WgradLoader(const GradientView<T>& dy, const OperandView<T>& in,
                                         const WgradCut& cut, const WgradBlock& block,
                                         Pack<T>* tiles, Pack<T>* ring)
      : dy_(dy),
        in_(in),
        of_dy_(static_cast<int>(threadIdx.x) < cut.rows.threads()),
        side_(of_dy_ ? cut.rows : cut.columns) {
    const int me = threadIdx.x - (of_dy_ ? 0 : cut.rows.threads()), pack = me % side_.packs;
    c_ = (of_dy_ ? block.row0 : block.column0) + pack * kPack;
    row_ = me / side_.packs;
    to_ = tiles + (of_dy_ ? 0 : kWgradPixels * cut.rows.pitch) + pack;
    raw_ = ring + (of_dy_ ? 0 : cut.rows.copied()) + me;
    if (row_ >= side_.step || c_ >= side_.channels)
      row_ = kWgradPixels;  // nothing to do
    else if (of_dy_)
      take_gradient(block.begin);
    else
      take_operand(block.begin);
  }

  // Asks for the next step, of which `count` pixels are left, into the slot that begins `slot`
  // packs from the ring's first on.
  __device__ __forceinline__ void copy(int slot, int count) {
    Pack<T>* raw = raw_ + slot;
    for (int r = row_; r < kWgradPixels; r += side_.step) {
      if (r < count) ask(raw, r);
      raw += side_.streams * side_.threads();
    }
    advance();
  }

  // From that slot to the tile that begins `tile` packs from the first on; zero beyond the `count`
  // pixels that are left from `pixel` on. Asks for the next step, `ahead` pixels, in its place.
  __device__ __forceinline__ void transform(int tile, int slot, int pixel, int count, int ahead) {
    const auto each = [&](auto make) {
      Pack<T>* raw = raw_ + slot;
      for (int r = row_; r < kWgradPixels; r += side_.step) {
        Pack<T> value{};
        if (r < count) value = make(raw, r);
        if (r < ahead) ask(raw, r);
        store_vector(to_[tile + r * side_.pitch].at, value);
        raw += side_.streams * side_.threads();
      }
    };
    const auto as_it_is = [](const Pack<T>* raw, int) { return *raw; };
    if (of_dy_) {
      if (y_)
        each([&](const Pack<T>* raw, int) {
          return complete_pack(raw[0], raw[side_.threads()], scale_, shift_, factor_);
        });
      else
        each(as_it_is);
    } else if (in_.plain()) {
      each(as_it_is);
    } else {
      visit_activation(in_.act, [&](auto activation) {
        each([&](const Pack<T>* raw, int r) {
          if (in_.gate) meet(pixel + r);
          return activate_pack(*raw, scale_, shift_, factor_, in_.gate != nullptr, activation);
        });
      });
    }
    advance();
  }

 private:
  __device__ __forceinline__ void take_gradient(int pixel) {
    x_ = dy_.grad + int64_t{pixel} * dy_.pitch + c_;
    if (dy_.normed()) y_ = dy_.x + int64_t{pixel} * dy_.pitch + c_;
    fold(GradientSource<T>{dy_, nullptr});
  }
  __device__ __forceinline__ void take_operand(int pixel) {
    x_ = in_.x + int64_t{pixel} * in_.pitch + c_;
    fold(OperandSource<T>{in_});
    // The gate is loaded when its image is met.
    const int area = in_.height * in_.width;
    image_ = (pixel + row_) / area - 1;
    image_end_ = (image_ + 1) * area;
  }
  template <class Source>
  __device__ __forceinline__ void fold(const Source& source) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const Folded folded = source.constants(c_ + k);
      scale_[k] = folded.scale;
      shift_[k] = folded.shift;
      factor_[k] = folded.factor;
    }
  }
  // Copies pixel r of the step that is next.
  __device__ __forceinline__ void ask(Pack<T>* raw, int r) const {
    const int at = r * pitch();
    copy_async(raw, x_ + at);
    if (of_dy_ && y_) copy_async(raw + side_.threads(), y_ + at);
  }
  __device__ __forceinline__ void advance() {
    commit_copies();
    x_ += kWgradPixels * pitch();
    if (y_) y_ += kWgradPixels * pitch();
  }
  __device__ __forceinline__ int pitch() const {
    return of_dy_ ? dy_.pitch : in_.pitch;
  }
  // The thread has come to this pixel.
  __device__ __forceinline__ void meet(int pixel) {
    if (pixel < image_end_) return;
    do {
      ++image_;
      image_end_ += in_.height * in_.width;
    } while (pixel >= image_end_);
    load_floats(factor_, in_.gate + int64_t{image_} * in_.channels + c_);
  }

  const GradientView<T>& dy_;
  const OperandView<T>& in_;
  const bool of_dy_;
  const WgradSide& side_;
  int row_, c_;          // its first pixel of a step, its channel
  Pack<T>*to_, *raw_;    // its places in pixel 0 of the first tile, and in the first slot
  const T *x_{}, *y_{};  // its pack in pixel 0 of the step that is copied next; y or null
  float scale_[kPack], shift_[kPack], factor_[kPack];  // factor_: of dy, or the gate of image_
  int image_ = 0, image_end_ = 0;                      // the pixel at which it ends
};

// Where a warp's rectangle lies in its block, and the products of a thread: row g or g + 8 of 16,
// column 2t or 2t + 1 of 8.
template <class Shape, class T>
class WgradWarp {
 public:
  static constexpr int kRowTiles = Shape::shape.rows / 16, kColumnTiles = kWgradColumns / 8;

  __device__ __forceinline__ WgradWarp(const WgradCut& cut, const Pack<T>* tiles)
      : pitch_a_(cut.rows.pitch), pitch_b_(cut.columns.pitch) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    row_ = warp % cut.warp_rows * Shape::shape.rows;
    column_ = warp / cut.warp_rows * kWgradColumns;
    const int low = lane % 8, odd = lane / 8 % 2, high = lane / 16;
    a_ = address(tiles + (8 * high + low) * pitch_a_ + row_ / kPack + odd);
    b_ = address(tiles + kWgradPixels * pitch_a_ + (8 * odd + low) * pitch_b_ + column_ / kPack +
                 high);
    present_ = row_ < cut.rows.packs * kPack && column_ < cut.columns.packs * kPack;
  }

  // += the products of the tile that begins `tile` packs from the first on.
  __device__ __forceinline__ void multiply_add(int tile) {
    if (!present_) return;
#pragma unroll
    for (int step = 0; step < kWgradPixels / 16; ++step) {
      const uint32_t a_at = a_ + (tile + step * 16 * pitch_a_) * kPackBytes;
      const uint32_t b_at = b_ + (tile + step * 16 * pitch_b_) * kPackBytes;
      uint32_t b[kColumnTiles / 2][4];
#pragma unroll
      for (int j = 0; j < kColumnTiles / 2; ++j) load_transposed(b[j], b_at + j * 2 * kPackBytes);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t a[4];
        load_transposed(a, a_at + i * 2 * kPackBytes);
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j)
          multiply<T>(sum_[i][j], a[0], a[1], a[2], a[3], b[j / 2][j % 2 * 2],
                      b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  // The sums to `out` (rows, columns), which lies at the block's first ones.
  __device__ __forceinline__ void store(float* out, int rows, int columns, int pitch) const {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      const int r = row_ + 8 * i + g;
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        const int c = column_ + 8 * j + 2 * t;
        if (r < rows && c < columns)
          *reinterpret_cast<float2*>(out + int64_t{r} * pitch + c) =
              make_float2(sum_[i / 2][j][i % 2 * 2], sum_[i / 2][j][i % 2 * 2 + 1]);
      }
    }
  }

 private:
  static constexpr int kPackBytes = sizeof(Pack<T>);

  __device__ __forceinline__ static uint32_t address(const Pack<T>* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  }

  int pitch_a_, pitch_b_, row_, column_;
  uint32_t a_, b_;  // of the matrix row that the thread addresses, in the first tile
  bool present_;
  float sum_[kRowTiles][kColumnTiles][4] = {};
};

// Until the oldest of the `slots` newest groups of copies has arrived.
__device__ __forceinline__ void wait_oldest(int slots) {
  if (slots == 4)
    wait_copies<3>();
  else if (slots == 3)
    wait_copies<2>();
  else
    wait_copies<1>();
}

// out (splits, C', C) = the sums of each split.
template <class Shape, class T>
__global__ void __launch_bounds__(Shape::shape.warps* kWarp, Shape::shape.blocks)
    wgrad_kernel(float* __restrict__ out, const __grid_constant__ GradientView<T> dy,
                 const __grid_constant__ OperandView<T> in, const __grid_constant__ WgradCut cut) {
  follow();
  const WgradBlock block(cut, static_cast<int>(in.pixels()));
  Pack<T>* const tiles = reinterpret_cast<Pack<T>*>(dynamic_shared);
  WgradLoader<T> loader(dy, in, cut, block, tiles, tiles + 2 * cut.tile);
  WgradWarp<Shape, T> warp(cut, tiles);
  for (int slot = 0; slot < cut.slots; ++slot)
    loader.copy(slot * cut.slot, block.end - block.begin - slot * kWgradPixels);
  int slot = 0, tile = 0;
  for (int pixel = block.begin; pixel < block.end; pixel += kWgradPixels) {
    const int left = block.end - pixel;
    wait_oldest(cut.slots);
    loader.transform(tile * cut.tile, slot * cut.slot, pixel, left,
                     left - cut.slots * kWgradPixels);
    __syncthreads();
    warp.multiply_add(tile * cut.tile);
    tile ^= 1;
    if (++slot == cut.slots) slot = 0;
  }
  const int row0 = block.row0, column0 = block.column0;
  warp.store(
      out + (int64_t{blockIdx.y} * cut.rows.channels + row0) * cut.columns.channels + column0,
      min(cut.rows.packs * kPack, cut.rows.channels - row0),
      min(cut.columns.packs * kPack, cut.columns.channels - column0), cut.columns.channels);
}

}  // namespace

template <class T>
void PointwiseWgrad<T>::run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in,
                            float* partials, cudaStream_t stream) {
  const WgradCut cut = wgrad_cut(in.pixels(), dy.channels, in.channels, device_limits());
  visit_wgrad_shape(cut.shape, [&](auto type) {
    using Shape = decltype(type);
    const auto kernel = wgrad_kernel<Shape, T>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
    launch(kernel, dim3(cut.rows.blocks * cut.columns.blocks, cut.splits),
           Shape::shape.warps * kWarp, cut.shared, stream, cut.splits > 1 ? partials : dweight, dy,
           in, cut);
  });
  if (cut.splits == 1) return;
  merge_rows(dweight, partials, cut.splits, int64_t{dy.channels} * in.channels, stream);
}

template struct PointwiseWgrad<__half>;
template struct PointwiseWgrad<__nv_bfloat16>;

}  // namespace engine::kernels

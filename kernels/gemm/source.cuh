// What a fused product reads: an operand or a gradient, copied ahead into a warp's ring and
// transformed in registers on its way to the matrix unit. A thread (g, t) holds rows g, g + 8, … of
// a tile at eight channels, 8t … 8t + 7 of a block: whole packs of memory, which it copies, reads
// back and transforms alone, so that nothing has to wait for another thread.
#pragma once

#include "kernels/device.cuh"
#include "kernels/gemm/mma.cuh"
#include "kernels/operand.h"
#include "kernels/product.h"

namespace engine::kernels {

constexpr int kTileRows = kProductTile / 8;   // rows of a thread
constexpr int kTileProducts = kTileRows / 2;  // of sixteen rows

// The place of a thread in its warp's tile.
struct TileThread {
  int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int row = lane / 4, channel = lane % 4 * kPack;
};

// The pixels [first, first + rows) of a tile, and their image if tiles do not straddle images.
struct Tile {
  int first, rows, image;
};

// Row `row` of (rows, pitch), from the channel at `base` on. One product, in bytes: the compiler's
// own is in elements, and shifted after it.
template <class T>
__device__ __forceinline__ T* row_at(T* base, int row, int pitch) {
  int64_t bytes;
  asm("mul.wide.s32 %0, %1, %2;"
      : "=l"(bytes)
      : "r"(row), "r"(pitch * static_cast<int>(sizeof(T))));
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) + bytes);
}

// Calls use(i, pixel) for the thread's rows that the tile has.
template <class Use>
__device__ __forceinline__ void for_rows(const Tile& tile, int row, Use use) {
#pragma unroll
  for (int i = 0; i < kTileRows; ++i)
    if (row + 8 * i < tile.rows) use(i, tile.first + row + 8 * i);
}

template <int N>
__device__ __forceinline__ void load_floats(float (&out)[N], const float* from) {
#pragma unroll
  for (int k = 0; k < N; k += 4)
    *reinterpret_cast<float4*>(out + k) = *reinterpret_cast<const float4*>(from + k);
}

// silu(u) = v + v·tanh(v) with v = u / 2, by one special-function operation. The constants of a
// channel are folded into u = scale·x + shift, and halved before a SiLU.
__device__ __forceinline__ float silu_of_half(float v) {
  return fmaf(v, tanh_approximate(v), v);
}
__device__ __forceinline__ Activated<float> silu_with_slope_of_half(float v) {
  const float t = tanh_approximate(v), s = fmaf(0.5f, t, 0.5f), h = fmaf(v, t, v);
  return {h, fmaf(-h, s, s + h)};
}

struct Folded {
  float scale, shift, factor = 1;  // factor: of a gradient that is a sum's
};
__device__ __forceinline__ Folded fold_norm(const ChannelNorm<float>& norm, Activation act) {
  const float half = act == Activation::silu ? 0.5f : 1.f, scale = half * norm.scale();
  return {scale, fmaf(-norm.mean, scale, half * norm.beta)};
}

// Calls use(activation of u = scale·x + shift), folded by fold_norm().
template <class Use>
__device__ __forceinline__ void visit_activation(Activation act, Use use) {
  if (act == Activation::silu)
    use([](float v) { return silu_of_half(v); });
  else if (act == Activation::relu)
    use([](float u) { return activate(Activation::relu, u).h; });
  else if (act == Activation::relu6)
    use([](float u) { return activate(Activation::relu6, u).h; });
  else
    use([](float u) { return u; });
}

// gate·activation(scale·x + shift), with a gate if it is `gated`.
template <class T, class Act>
__device__ __forceinline__ Pack<T> activate_pack(const Pack<T>& x, const float (&scale)[kPack],
                                                 const float (&shift)[kPack],
                                                 const float (&gate)[kPack], bool gated,
                                                 Act activation) {
  float v[kPack];
  to_floats(v, x);
#pragma unroll
  for (int k = 0; k < kPack; ++k) v[k] = activation(fmaf(scale[k], v[k], shift[k]));
  if (gated) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) v[k] *= gate[k];
  }
  return vector_of<T>(v);
}

// dy = G + scale·x + shift, with G = grad or, if there is a factor, factor·grad.
template <class T, class... Factor>
__device__ __forceinline__ Pack<T> complete_pack(const Pack<T>& grad, const Pack<T>& x,
                                                 const float (&scale)[kPack],
                                                 const float (&shift)[kPack],
                                                 const Factor&... factor) {
  float v[kPack], u[kPack];
  to_floats(v, grad);
  to_floats(u, x);
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    const float terms = fmaf(scale[k], u[k], shift[k]);
    if constexpr (sizeof...(Factor) == 0)
      v[k] += terms;
    else
      v[k] = fmaf(factor[k]..., v[k], terms);
  }
  return vector_of<T>(v);
}

// f = gate·act(norm(x)), with a learned gate if any.
template <class T>
struct OperandSource {
  static constexpr bool kBackward = false;  // the weight is (channels, depth)
  OperandView<T> in;

  __host__ __device__ int depth() const { return in.channels; }
  int streams() const { return 1; }

  __device__ __forceinline__ Folded constants(int c) const {
    return fold_norm(in.norm.channel(c), in.act);
  }
  __device__ __forceinline__ void fetch(Pack<T>* slot, const Tile& tile, int row, int c) const {
    if (c >= in.channels) return;
    for_rows(tile, row, [&](int i, int pixel) {
      copy_async(slot + i * kWarp, row_at(in.x + c, pixel, in.pitch));
    });
  }
  // f, rounded, at channels [c, c + kPack), whose constants begin there.
  __device__ __forceinline__ void load(Pack<T> (&f)[kTileRows], const Pack<T>* slot,
                                       const Tile& tile, int, int c, const float* scale,
                                       const float* shift, const float*, bool) const {
    if (in.plain()) {
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) f[i] = slot[i * kWarp];
      return;
    }
    float a[kPack], b[kPack], gate[kPack] = {};
    load_floats(a, scale);
    load_floats(b, shift);
    if (in.gate && c < in.channels)
      load_floats(gate, in.gate + int64_t{tile.image} * in.channels + c);
    visit_activation(in.act, [&](auto activation) {
#pragma unroll
      for (int i = 0; i < kTileRows; ++i)
        f[i] = activate_pack(slot[i * kWarp], a, b, gate, in.gate != nullptr, activation);
    });
  }
};

// dy = G − k0 − k1·xhat, or G itself; without a gate. G may be a sum's gradient, to be scaled. dy
// is left in `dense` (pixels, channels) for whoever needs it again, unless that is null.
template <class T>
struct GradientSource {
  static constexpr bool kBackward = true;  // the weight is (depth, channels)
  GradientView<T> dy;
  T* dense;

  __host__ __device__ int depth() const { return dy.channels; }
  int streams() const { return dy.normed() ? 2 : 1; }

  // dy = factor·grad + scale·x + shift.
  __device__ __forceinline__ Folded constants(int c) const {
    if (!dy.normed()) return {0, 0};
    const ChannelNorm<float> norm = dy.norm.channel(c);
    const float slope = dy.k1[c] * norm.inv_std;
    return {-slope, fmaf(slope, norm.mean, -dy.k0[c]), dy.scaled ? norm.scale() : 1.f};
  }
  __device__ __forceinline__ void fetch(Pack<T>* slot, const Tile& tile, int row, int c) const {
    if (c >= dy.channels) return;
    for_rows(tile, row, [&](int i, int pixel) {
      copy_async(slot + i * kWarp, row_at(dy.grad + c, pixel, dy.pitch));
      if (dy.normed())
        copy_async(slot + (kTileRows + i) * kWarp, row_at(dy.x + c, pixel, dy.pitch));
    });
  }
  // `leaves`: nobody else stores these channels of the tile.
  __device__ __forceinline__ void load(Pack<T> (&value)[kTileRows], const Pack<T>* slot,
                                       const Tile& tile, int row, int c, const float* scale,
                                       const float* shift, const float* factor, bool leaves) const {
    if (!dy.normed()) {
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) value[i] = slot[i * kWarp];
      return;
    }
    float a[kPack], b[kPack], g[kPack];
    load_floats(a, scale);
    load_floats(b, shift);
    load_floats(g, factor);
#pragma unroll
    for (int i = 0; i < kTileRows; ++i)
      value[i] = complete_pack(slot[i * kWarp], slot[(kTileRows + i) * kWarp], a, b, g);
    if (!dense || !leaves || c >= dy.channels) return;
    for_rows(tile, row, [&](int i, int pixel) {
      store_vector(row_at(dense + c, pixel, dy.channels), value[i]);
    });
  }
};

}  // namespace engine::kernels

// What a fused product does with its result, which a thread holds as whole packs: the output with
// its statistics, or the gradient of the operand with its sums. Sums over pixels are folded over
// the warp after each tile and kept in shared memory, for each warp; at the end of a unit its
// warps' sums are added in order and leave one row of partial sums.
#pragma once

#include "kernels/gemm/source.cuh"
#include "kernels/partials.cuh"

namespace engine::kernels {

// The sum of value[k] over the eight rows g of the warp's threads, of k = g in thread (g, t).
__device__ __forceinline__ float fold_rows(const float (&value)[kPack]) {
  const int g = threadIdx.x % kWarp / 4;
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

// The sums of a thread block, (sums, warps, columns) floats, and the pixels that each warp met.
struct ProductSums {
  float *at, *met;
  int warps, columns;
  __device__ __forceinline__ float& of(int which, int warp, int column) const {
    return at[(which * warps + warp) * columns + column];
  }
};

// A thread's eight channels of one block of the output.
struct BlockPlace {
  int c;       // of all channels; may lie beyond the last one
  int column;  // of the group's
  bool first;  // the warp's first tile
};

// y with the statistics of what is stored: Σd, Σd² and the shift, with d = y − shift.
template <class T>
struct OutputEpilogue {
  static constexpr int kSums = 3, kConstants = 0;
  SliceView<T> out;
  float* partials;

  __host__ __device__ int channels() const { return out.channels; }
  __host__ __device__ int reads() const { return 0; }

  __device__ __forceinline__ void stage(float*, int, int, int) const {}
  __device__ __forceinline__ void fetch(Pack<T>*, const Tile&, int, int) const {}
  __device__ __forceinline__ void store(const float (&value)[kTileRows][kPack],
                                        const TileThread& me, const Tile& tile,
                                        const BlockPlace& at, const Pack<T>*, const float*,
                                        const ProductSums& sums) const {
    Pack<T> stored[kTileRows];
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) stored[i] = vector_of<T>(value[i]);
    if (at.c < out.channels)
      for_rows(tile, me.row, [&](int i, int64_t pixel) {
        store_vector(out.y + pixel * out.pitch + at.c, stored[i]);
      });
    if (!out.mean) return;
    float* const shifts = &sums.of(2, me.warp, at.column);  // the first row that the warp stored
    if (at.first) {
      if (me.row == 0) {
        float shift[kPack];
        to_floats(shift, stored[0]);
#pragma unroll
        for (int k = 0; k < kPack; ++k) shifts[k] = shift[k];
      }
      __syncwarp();
    }
    float shift[kPack], first[kPack] = {}, second[kPack] = {};
    load_floats(shift, shifts);
    for_rows(tile, me.row, [&](int i, int64_t) {
      float y[kPack];
      to_floats(y, stored[i]);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float d = y[k] - shift[k];
        first[k] += d;
        second[k] = fmaf(d, d, second[k]);
      }
    });
    sums.of(0, me.warp, at.column + me.row) += fold_rows(first);
    sums.of(1, me.warp, at.column + me.row) += fold_rows(second);
  }

  // The sums of group column `column`, channel c, to the unit's row.
  __device__ __forceinline__ void leave(const ProductSums& sums, int column, int c, int) const {
    if (!out.mean) return;
    const float origin = sums.of(2, 0, column);
    float first = 0, second = 0;
    for (int w = 0; w < sums.warps; ++w) {
      const float n = sums.met[w];
      if (n == 0) break;  // nor have the following warps
      const float d = sums.of(2, w, column) - origin, s1 = sums.of(0, w, column);
      first += fmaf(n, d, s1);
      second += fmaf(d, fmaf(n, d, 2.f * s1), sums.of(1, w, column));
    }
    partial(partials, 0, out.channels)[c] = first;
    partial(partials, 1, out.channels)[c] = second;
    partial(partials, 2, out.channels)[c] = origin;
  }
};

// The constants of an operand's channels, in shared memory: scale, shift and mean, (columns,) each.
template <class T>
__device__ __forceinline__ void stage_operand(float* constants, int columns, int column,
                                              const OperandView<T>& in, int c) {
  const ChannelNorm<float> norm = in.norm.channel(c < in.channels ? c : 0);
  const Folded folded = fold_norm(norm, in.act);
  constants[column] = folded.scale;
  constants[columns + column] = folded.shift;
  constants[2 * columns + column] = norm.mean;
}

// t = df·act', G (= or +=) gamma·inv_std·t, Σt and Σt·xhat; and f, if wanted, to `f` (pixels,
// channels). A plain operand is not read.
template <class T>
struct SinkEpilogue {
  static constexpr int kSums = 2, kConstants = 3;
  GradientSink<T> sink;
  OperandView<T> in;
  T* f;
  float* partials;

  __host__ __device__ int channels() const { return in.channels; }
  __host__ __device__ bool reads_x() const { return !in.plain(); }
  __host__ __device__ bool adds() const { return sink.how == Write::add; }
  __host__ __device__ int reads() const { return reads_x() + adds(); }

  __device__ __forceinline__ void stage(float* constants, int columns, int column, int c) const {
    stage_operand(constants, columns, column, in, c);
  }
  // x, then the old G.
  __device__ __forceinline__ void fetch(Pack<T>* slot, const Tile& tile, int row, int c) const {
    if (c >= in.channels) return;
    for_rows(tile, row, [&](int i, int64_t pixel) {
      if (reads_x()) copy_async(slot + i * kWarp, in.x + pixel * in.pitch + c);
      if (adds())
        copy_async(slot + (reads_x() * kTileRows + i) * kWarp,
                   static_cast<const T*>(sink.grad) + pixel * sink.pitch + c);
    });
  }

  __device__ __forceinline__ void store(float (&value)[kTileRows][kPack], const TileThread& me,
                                        const Tile& tile, const BlockPlace& at, const Pack<T>* slot,
                                        const float* constants, const ProductSums& sums) const {
    const bool present = at.c < in.channels;
    if (reads_x()) {
      float sum_t[kPack] = {}, sum_t_xhat[kPack] = {};
      if (present) backward(value, sum_t, sum_t_xhat, me, tile, at, slot, constants, sums.columns);
      sums.of(0, me.warp, at.column + me.row) += fold_rows(sum_t);
      sums.of(1, me.warp, at.column + me.row) += fold_rows(sum_t_xhat);
    }
    if (!present) return;
    for_rows(tile, me.row, [&](int i, int64_t pixel) {
      if (adds()) {
        float old[kPack];
        to_floats(old, slot[(reads_x() * kTileRows + i) * kWarp]);
#pragma unroll
        for (int k = 0; k < kPack; ++k) value[i][k] += old[k];
      }
      store_vector(sink.grad + pixel * sink.pitch + at.c, vector_of<T>(value[i]));
    });
  }

  __device__ __forceinline__ void leave(const ProductSums& sums, int column, int c, int) const {
    if (!reads_x()) return;
    float sum[2] = {};
    for (int w = 0; w < sums.warps; ++w)
#pragma unroll
      for (int i = 0; i < 2; ++i) sum[i] += sums.of(i, w, column);
    partial(partials, 0, in.channels)[c] = sum[0];
    partial(partials, 1, in.channels)[c] = sum[1] * in.norm.channel(c).inv_std;
  }

 private:
  // value = gamma·inv_std·t, and the thread's sums of t and t·(x − mean).
  __device__ __forceinline__ void backward(float (&value)[kTileRows][kPack], float (&sum_t)[kPack],
                                           float (&sum_t_xhat)[kPack], const TileThread& me,
                                           const Tile& tile, const BlockPlace& at,
                                           const Pack<T>* slot, const float* constants,
                                           int columns) const {
    const auto each = [&](float halved, auto activation) {
      for_rows(tile, me.row, [&](int i, int64_t pixel) {
        float x[kPack], scale[kPack], shift[kPack], mean[kPack], h[kPack];
        to_floats(x, slot[i * kWarp]);
        load_floats(scale, constants + at.column);
        load_floats(shift, constants + columns + at.column);
        load_floats(mean, constants + 2 * columns + at.column);
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const Activated<float> a = activation(fmaf(scale[k], x[k], shift[k]));
          const float t = value[i][k] * a.slope;
          h[k] = a.h;
          sum_t[k] += t;
          sum_t_xhat[k] = fmaf(t, x[k] - mean[k], sum_t_xhat[k]);
          value[i][k] = t * (scale[k] * halved);
        }
        if (f) store_vector(f + pixel * in.channels + at.c, vector_of<T>(h));
      });
    };
    if (in.act == Activation::silu)
      each(2.f, [](float v) { return silu_with_slope_of_half(v); });
    else if (in.act == Activation::relu)
      each(1.f, [](float u) { return activate(Activation::relu, u); });
    else if (in.act == Activation::relu6)
      each(1.f, [](float u) { return activate(Activation::relu6, u); });
    else
      each(1.f, [](float u) { return activate(Activation::none, u); });
  }
};

// dz = df of an operand with a learned gate, and for each image Σdz·h, Σdz·h' and Σdz·h'·xhat; and
// f = gate·h, if wanted, to `f` (pixels, channels). A unit's tiles lie in one image.
template <class T>
struct GatedEpilogue {
  static constexpr int kSums = 3, kConstants = 3;
  GradientSink<T> sink;
  OperandView<T> in;
  T* f;
  float* partials;
  int pieces = 1;  // units of an image: one writes the sums itself, several leave rows

  __host__ __device__ int channels() const { return in.channels; }
  __host__ __device__ int reads() const { return 1; }

  __device__ __forceinline__ void stage(float* constants, int columns, int column, int c) const {
    stage_operand(constants, columns, column, in, c);
  }
  __device__ __forceinline__ void fetch(Pack<T>* slot, const Tile& tile, int row, int c) const {
    if (c >= in.channels) return;
    for_rows(tile, row, [&](int i, int64_t pixel) {
      copy_async(slot + i * kWarp, in.x + pixel * in.pitch + c);
    });
  }

  __device__ __forceinline__ void store(const float (&dz)[kTileRows][kPack], const TileThread& me,
                                        const Tile& tile, const BlockPlace& at, const Pack<T>* slot,
                                        const float* constants, const ProductSums& sums) const {
    float sum_h[kPack] = {}, sum_slope[kPack] = {}, sum_xhat[kPack] = {};
    const auto each = [&](auto activation) {
      float gate[kPack];
      load_floats(gate, in.gate + int64_t{tile.image} * in.channels + at.c);
      for_rows(tile, me.row, [&](int i, int64_t pixel) {
        float x[kPack], scale[kPack], shift[kPack], mean[kPack], h[kPack];
        to_floats(x, slot[i * kWarp]);
        load_floats(scale, constants + at.column);
        load_floats(shift, constants + sums.columns + at.column);
        load_floats(mean, constants + 2 * sums.columns + at.column);
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const Activated<float> a = activation(fmaf(scale[k], x[k], shift[k]));
          const float d = dz[i][k] * a.slope;
          sum_h[k] = fmaf(dz[i][k], a.h, sum_h[k]);
          sum_slope[k] += d;
          sum_xhat[k] = fmaf(d, x[k] - mean[k], sum_xhat[k]);
          h[k] = a.h * gate[k];
        }
        if (f) store_vector(f + pixel * in.channels + at.c, vector_of<T>(h));
        store_vector(sink.grad + pixel * sink.pitch + at.c, vector_of<T>(dz[i]));
      });
    };
    if (at.c < in.channels && in.act == Activation::silu)
      each([](float v) { return silu_with_slope_of_half(v); });
    else if (at.c < in.channels)
      each([act = in.act](float u) { return activate(act, u); });
    sums.of(0, me.warp, at.column + me.row) += fold_rows(sum_h);
    sums.of(1, me.warp, at.column + me.row) += fold_rows(sum_slope);
    sums.of(2, me.warp, at.column + me.row) += fold_rows(sum_xhat);
  }

  __device__ __forceinline__ void leave(const ProductSums& sums, int column, int c,
                                        int unit) const {
    float sum[kSums] = {};
    for (int w = 0; w < sums.warps; ++w)
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] += sums.of(i, w, column);
    sum[2] *= in.norm.channel(c).inv_std;
    float* const whole[kSums] = {sink.dz_h, sink.dz_slope, sink.dz_slope_xhat};
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      if (pieces == 1)
        whole[i][int64_t{unit} * in.channels + c] = sum[i];
      else
        partial(partials, i, in.channels)[c] = sum[i];
    }
  }
};

}  // namespace engine::kernels

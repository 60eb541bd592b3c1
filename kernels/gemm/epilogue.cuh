// What a fused product does with its result, which a thread holds as whole packs: the output with
// its statistics, or the gradient of the operand with its sums. Sums over pixels are folded over
// the warp after each tile and kept in shared memory, for each warp; at the end of a unit its
// warps' sums are added in order and leave one row of partial sums.
#pragma once

#include "kernels/gemm/source.cuh"
#include "kernels/partials.cuh"

namespace engine::kernels {

// Epilogues work on half a pack at a time, which keeps what they hold of it in registers.
constexpr int kHalfPack = kPack / 2;

template <class T>
__device__ __forceinline__ Vector<T, kHalfPack>& half_of(Pack<T>& pack, int half) {
  return reinterpret_cast<Vector<T, kHalfPack>*>(&pack)[half];
}
template <class T>
__device__ __forceinline__ void load_half(float (&out)[kHalfPack], const Pack<T>* pack, int half) {
  to_floats(out, load_vector<kHalfPack>(&pack->at[half * kHalfPack]));
}

// The sums of a thread block, (sums, warps, columns) floats, and the pixels that each warp met.
struct ProductSums {
  float *at, *met;
  int warps, columns;
  __device__ __forceinline__ float& of(int which, int warp, int column) const {
    return at[(which * warps + warp) * columns + column];
  }

  // of(which, warp, column + k) += the sum of value[k] over the eight rows g of the warp's threads.
  __device__ __forceinline__ void fold(int which, int warp, int column,
                                       const float (&value)[kHalfPack]) const {
    const int g = threadIdx.x % kWarp / 4;
    float two[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float keep = g & 4 ? value[k + 2] : value[k], give = g & 4 ? value[k] : value[k + 2];
      two[k] = keep + __shfl_xor_sync(0xffffffff, give, 16);
    }
    const float keep = g & 2 ? two[1] : two[0], give = g & 2 ? two[0] : two[1];
    float one = keep + __shfl_xor_sync(0xffffffff, give, 8);
    one += __shfl_xor_sync(0xffffffff, one, 4);
    if (g % 2 == 0) of(which, warp, column + g / 2) += one;
  }

  // The same of sums 0 and 1 of a whole pack at once: the threads of a row g end with sum g / 4 of
  // two channels.
  __device__ __forceinline__ void fold_two(int warp, int column, const float (&sum0)[kPack],
                                           const float (&sum1)[kPack]) const {
    const int g = threadIdx.x % kWarp / 4;
    float eight[8], four[4], two[2];
#pragma unroll
    for (int k = 0; k < 8; ++k) eight[k] = exchange(g & 4, sum0[k], sum1[k], 16);
#pragma unroll
    for (int k = 0; k < 4; ++k) four[k] = exchange(g & 2, eight[k], eight[k + 4], 8);
#pragma unroll
    for (int k = 0; k < 2; ++k) two[k] = exchange(g & 1, four[k], four[k + 2], 4);
    float* const to = &of(g / 4, warp, column + g % 4 * 2);
    to[0] += two[0];
    to[1] += two[1];
  }
  // Of half a pack, by the threads of a warp as it is made of a block of any shape: those of a row
  // g end with sum g / 4 of one channel.
  __device__ __forceinline__ void fold_two(int g, int warp, int column,
                                           const float (&sum0)[kHalfPack],
                                           const float (&sum1)[kHalfPack]) const {
    float four[4], two[2];
#pragma unroll
    for (int k = 0; k < 4; ++k) four[k] = exchange(g & 4, sum0[k], sum1[k], 16);
#pragma unroll
    for (int k = 0; k < 2; ++k) two[k] = exchange(g & 2, four[k], four[k + 2], 8);
    of(g / 4, warp, column + g % 4) += exchange(g & 1, two[0], two[1], 4);
  }

 private:
  // Of two threads `distance` lanes apart, the one with `second` set gets the sum of both threads'
  // `b`, the other that of their `a`.
  __device__ __forceinline__ static float exchange(bool second, float a, float b, int distance) {
    return (second ? b : a) + __shfl_xor_sync(0xffffffff, second ? a : b, distance);
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
      for_rows(tile, me.row, [&](int i, int pixel) {
        store_vector(row_at(out.y + at.c, pixel, out.pitch), stored[i]);
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
    for_rows(tile, me.row, [&](int i, int) {
      float y[kPack];
      to_floats(y, stored[i]);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float d = y[k] - shift[k];
        first[k] += d;
        second[k] = fmaf(d, d, second[k]);
      }
    });
    sums.fold_two(me.warp, at.column, first, second);
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

// Those of V channels.
template <int V>
struct OperandConstants {
  float scale[V], shift[V], mean[V];

  __device__ __forceinline__ OperandConstants(const float* constants, int columns, int column) {
    load_floats(scale, constants + column);
    load_floats(shift, constants + columns + column);
    load_floats(mean, constants + 2 * columns + column);
  }
};

// The block's row of Σt and Σt·xhat, from what its shares of the pixels left in shared memory:
// (2, shares, columns), Σt and Σt·(x − mean), of channels from c0 on.
template <class T>
__device__ __forceinline__ void leave_norm_sums(float* partials, const float* buffer, int shares,
                                                int columns, int c0, const OperandView<T>& in,
                                                int thread, int threads) {
  for (int k = thread; k < columns && c0 + k < in.channels; k += threads) {
    float one = 0, two = 0;
    for (int i = 0; i < shares; ++i) {
      one += buffer[i * columns + k];
      two += buffer[(shares + i) * columns + k];
    }
    partial(partials, 0, in.channels)[c0 + k] = one;
    partial(partials, 1, in.channels)[c0 + k] = two * in.norm.channel(c0 + k).inv_std;
  }
}

// act and act' of u = scale·x + shift, folded by fold_norm(), whose scale is gamma·inv_std divided
// by kUnfold.
template <Activation Act>
struct Through {
  static constexpr float kUnfold = Act == Activation::silu ? 2.f : 1.f;

  __device__ __forceinline__ Activated<float> operator()(float u) const {
    if constexpr (Act == Activation::silu)
      return silu_with_slope_of_half(u);
    else
      return activate(Act, u);
  }
};
// One that is not known before.
struct ThroughAny {
  static constexpr float kUnfold = 1.f;
  Activation act;  // not SiLU

  __device__ __forceinline__ Activated<float> operator()(float u) const { return activate(act, u); }
};

// use(activation), with a type of its own for those that are frequent.
template <class Use>
__device__ __forceinline__ void visit_through(Activation act, Use use) {
  if (act == Activation::silu)
    use(Through<Activation::silu>{});
  else if (act == Activation::relu)
    use(Through<Activation::relu>{});
  else
    use(ThroughAny{act});
}

// Σt and Σt·(x − mean) of V channels, over the pixels of a thread.
template <int V>
struct SinkSums {
  float t[V] = {}, t_centred[V] = {};

  // value = gamma·inv_std·t + old and h = act of one pixel, with t = df·act', which is added.
  template <class Act>
  __device__ __forceinline__ void take(float (&value)[V], float (&h)[V], const float (&df)[V],
                                       const float (&x)[V], const float (&old)[V],
                                       const OperandConstants<V>& of, Act activation) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const Activated<float> a = activation(fmaf(of.scale[k], x[k], of.shift[k]));
      const float through = df[k] * a.slope;
      t[k] += through;
      t_centred[k] = fmaf(through, x[k] - of.mean[k], t_centred[k]);
      value[k] = fmaf(through, Act::kUnfold * of.scale[k], old[k]);
      h[k] = a.h;
    }
  }
};

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
    for_rows(tile, row, [&](int i, int pixel) {
      if (reads_x()) copy_async(slot + i * kWarp, row_at(in.x + c, pixel, in.pitch));
      if (adds())
        copy_async(slot + (reads_x() * kTileRows + i) * kWarp,
                   row_at(static_cast<const T*>(sink.grad) + c, pixel, sink.pitch));
    });
  }

  __device__ __forceinline__ void store(const float (&df)[kTileRows][kPack], const TileThread& me,
                                        const Tile& tile, const BlockPlace& at, const Pack<T>* slot,
                                        const float* constants, const ProductSums& sums) const {
    if (!reads_x())
      store_plain(df, me, tile, at, slot);
    else
      visit_through(in.act, [&](auto activation) {
        store_through(df, me, tile, at, slot, constants, sums, activation);
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
  __device__ __forceinline__ T* gradient_at(int pixel, int c) const {
    return row_at(sink.grad + c, pixel, sink.pitch);
  }

  __device__ __forceinline__ void store_plain(const float (&df)[kTileRows][kPack],
                                              const TileThread& me, const Tile& tile,
                                              const BlockPlace& at, const Pack<T>* slot) const {
    if (at.c >= in.channels) return;
    for_rows(tile, me.row, [&](int i, int pixel) {
      float value[kPack], old[kPack] = {};
      if (adds()) to_floats(old, slot[i * kWarp]);
#pragma unroll
      for (int k = 0; k < kPack; ++k) value[k] = df[i][k] + old[k];
      store_vector(gradient_at(pixel, at.c), vector_of<T>(value));
    });
  }

  // Back through the activation and the norm.
  template <class Act>
  __device__ __forceinline__ void store_through(const float (&df)[kTileRows][kPack],
                                                const TileThread& me, const Tile& tile,
                                                const BlockPlace& at, const Pack<T>* slot,
                                                const float* constants, const ProductSums& sums,
                                                Act activation) const {
    SinkSums<kHalfPack> sum[2];
    for_rows(at.c < in.channels ? tile : Tile{}, me.row, [&](int i, int pixel) {
      Pack<T> grad, h;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const OperandConstants<kHalfPack> of(constants, sums.columns, at.column + half * kHalfPack);
        float d[kHalfPack], x[kHalfPack], old[kHalfPack] = {}, value[kHalfPack], act[kHalfPack];
#pragma unroll
        for (int k = 0; k < kHalfPack; ++k) d[k] = df[i][half * kHalfPack + k];
        load_half(x, slot + i * kWarp, half);
        if (adds()) load_half(old, slot + (kTileRows + i) * kWarp, half);
        sum[half].take(value, act, d, x, old, of, activation);
        half_of(grad, half) = vector_of<T>(value);
        half_of(h, half) = vector_of<T>(act);
      }
      store_vector(gradient_at(pixel, at.c), grad);
      if (f) store_vector(row_at(f + at.c, pixel, in.channels), h);
    });
    float t[kPack], t_centred[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      t[k] = sum[k / kHalfPack].t[k % kHalfPack];
      t_centred[k] = sum[k / kHalfPack].t_centred[k % kHalfPack];
    }
    sums.fold_two(me.warp, at.column, t, t_centred);
  }
};

// dz = df of an operand with a learned gate, and for each image Σdz·h, Σdz·h' and Σdz·h'·xhat of dz
// as stored; and f = gate·h, if wanted, to `f` (pixels, channels). A unit's tiles lie in one image.
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
    for_rows(tile, row, [&](int i, int pixel) {
      copy_async(slot + i * kWarp, row_at(in.x + c, pixel, in.pitch));
    });
  }

  __device__ __forceinline__ void store(const float (&df)[kTileRows][kPack], const TileThread& me,
                                        const Tile& tile, const BlockPlace& at, const Pack<T>* slot,
                                        const float* constants, const ProductSums& sums) const {
    const Tile rows = at.c < in.channels ? tile : Tile{};
    const float* const gates = in.gate + int64_t{tile.image} * in.channels + at.c;
    if (in.act == Activation::silu)
      store_gated(df, me, rows, at, slot, gates, constants, sums, Through<Activation::silu>{});
    else
      store_gated(df, me, rows, at, slot, gates, constants, sums, ThroughAny{in.act});
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

 private:
  template <class Act>
  __device__ __forceinline__ void store_gated(const float (&df)[kTileRows][kPack],
                                              const TileThread& me, const Tile& rows,
                                              const BlockPlace& at, const Pack<T>* slot,
                                              const float* gates, const float* constants,
                                              const ProductSums& sums, Act activation) const {
    float sum[2][kPack] = {}, sum_xhat[2][kHalfPack] = {}, gate[2][kHalfPack] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (f && rows.rows > 0) load_floats(gate[half], gates + half * kHalfPack);
    for_rows(rows, me.row, [&](int i, int pixel) {
      const Pack<T> dz = vector_of<T>(df[i]);
      Pack<T> gated;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const OperandConstants<kHalfPack> of(constants, sums.columns, at.column + half * kHalfPack);
        float x[kHalfPack], d[kHalfPack], value[kHalfPack];
        load_half(x, slot + i * kWarp, half);
        load_half(d, &dz, half);
#pragma unroll
        for (int k = 0; k < kHalfPack; ++k) {
          const Activated<float> a = activation(fmaf(of.scale[k], x[k], of.shift[k]));
          const float slope = d[k] * a.slope;
          const int both = half * kHalfPack + k;
          sum[0][both] = fmaf(d[k], a.h, sum[0][both]);
          sum[1][both] += slope;
          sum_xhat[half][k] = fmaf(slope, x[k] - of.mean[k], sum_xhat[half][k]);
          value[k] = a.h * gate[half][k];
        }
        half_of(gated, half) = vector_of<T>(value);
      }
      store_vector(row_at(sink.grad + at.c, pixel, sink.pitch), dz);
      if (f) store_vector(row_at(f + at.c, pixel, in.channels), gated);
    });
    sums.fold_two(me.warp, at.column, sum[0], sum[1]);
#pragma unroll
    for (int half = 0; half < 2; ++half)
      sums.fold(2, me.warp, at.column + half * kHalfPack, sum_xhat[half]);
  }
};

}  // namespace engine::kernels

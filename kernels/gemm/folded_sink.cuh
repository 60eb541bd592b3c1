// From df, as products of folded weights make it (kernels/gemm/folded.cuh), to the sink: a thread
// has some neighbouring channels of two pixels, eight apart, of the 64 that a warpgroup multiplies.
#pragma once

#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/folded.cuh"
#include "kernels/gemm/source.cuh"
#include "kernels/packs.cuh"

namespace engine::kernels {

// The columns of a thread block are some neighbouring channels of the operand, from `first` on; a
// thread has 2 · Tiles of them, of 8 · Tiles. Its constants lie in shared memory.
template <class T, int Tiles>
struct FoldedSink {
  static constexpr int kOfThread = 2 * Tiles, kHalves = kOfThread / kHalfPack;

  const GradientSink<T>& sink;
  const OperandView<T>& in;
  float* of_in;      // scale, shift, mean, of `columns`
  float* of_df;      // ratio, offset, unit, likewise
  float* norm_ends;  // two sums for each column, and for each of `shares` warps
  int first, columns, shares;

  // The channels of one pixel in registers, four in each: their elements would take one each.
  struct Channels {
    uint2 part[kHalves];
  };
  // What a thread reads for its two pixels.
  struct Pair {
    int pixel;
    bool has[2];
    Channels x[2], grad[2];
  };

  // weights (packs of columns, rows, `plane` apart) = the folded ones, zero beyond the ends:
  // `depth` rows of G, and twice `operands` rows of f, whose weights are sums of two. Then the
  // constants.
  __device__ __forceinline__ void stage(Pack<T>* weights, int plane, int depth, int operands,
                                        const FoldedMemory<T>& from, int outs, int index,
                                        int threads) const {
    const int rows = depth + 2 * operands, sets = columns / (8 * Tiles);
    for (int i = index; i < sets * rows; i += threads) {
      const int r = i / sets, s = i % sets, of_f = r - depth;
      const int k = of_f < 0 ? r : of_f % operands, end = of_f < 0 ? outs : in.channels;
      const int o = of_f < 0 ? r : outs + of_f / operands * in.channels + k;
      Pack<T> packs_of[Tiles];
#pragma unroll
      for (int p = 0; p < Tiles; ++p) {
        const int c = first + s * 8 * Tiles + p * kPack;
        const bool has = k < end && c < in.channels;
        packs_of[p] = load_if(has, from.folded + (has ? int64_t{o} * in.channels + c : 0));
      }
      store_columns(weights + s * Tiles * plane + r, plane, packs_of);
    }
    for (int k = index; k < columns; k += threads) {
      const int c = first + k;
      stage_operand(of_in, columns, k, in, c);
      of_df[k] = c < in.channels ? from.ratio[c] : 0;
      of_df[columns + k] = c < in.channels ? from.offset[c] : 0;
      of_df[2 * columns + k] = c < in.channels ? from.unit[c] : 0;
    }
    for (int i = index; i < 2 * shares * columns; i += threads) norm_ends[i] = 0;
  }

  // df of what f made, before what G makes is added.
  __device__ __forceinline__ void scale(float (&df)[Tiles][4], int column) const {
#pragma unroll
    for (int part = 0; part < kHalves; ++part) {
      float ratio[kHalfPack], offset[kHalfPack];
      load_floats(ratio, of_df + column + part * kHalfPack);
      load_floats(offset, of_df + columns + column + part * kHalfPack);
#pragma unroll
      for (int k = 0; k < kHalfPack; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& value = at(df, part, k, half);
          value = fmaf(ratio[k], value, offset[k]);
        }
    }
  }

  // Begins to read x and the old gradient of two pixels, where they are wanted and exist.
  __device__ __forceinline__ Pair read(int column, int pixel, int pixels) const {
    const bool mine = first + column < in.channels;
    Pair pair{pixel, {pixel < pixels, pixel + 8 < pixels}, {}, {}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!mine || !pair.has[half]) continue;
      if (!in.plain())
        load(pair.x[half], row_at(in.x + first + column, pixel + 8 * half, in.pitch));
      if (sink.grad && sink.how == Write::add)
        load(pair.grad[half], row_at(sink.grad + first + column, pixel + 8 * half, sink.pitch));
    }
    return pair;
  }

  // Back through activation and norm, added to what was there. The norm's sums of the warp's pixels
  // are added to what it has in shared memory: in registers they would push the products out.
  template <class Act>
  __device__ __forceinline__ void finish(float (&df)[Tiles][4], Pair& pair, int column, int warp,
                                         int lane, Act activation) const {
#pragma unroll
    for (int part = 0; part < kHalves; ++part) {
      const int c = column + part * kHalfPack;
      const OperandConstants<kHalfPack> of(of_in, columns, c);
      float unit[kHalfPack];
      load_floats(unit, of_df + 2 * columns + c);
      SinkSums<kHalfPack> sums;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float whole[kHalfPack], x[kHalfPack], old[kHalfPack], value[kHalfPack], h[kHalfPack];
        to_half(x, pair.x[half].part[part]);
        to_half(old, pair.grad[half].part[part]);
#pragma unroll
        for (int k = 0; k < kHalfPack; ++k)
          whole[k] = pair.has[half] ? unit[k] * at(df, part, k, half) : 0.f;
        sums.take(value, h, whole, x, old, of, activation);
        const Vector<T, kHalfPack> rounded = vector_of<T>(value);
        pair.grad[half].part[part] = reinterpret_cast<const uint2&>(rounded);
      }
      ProductSums{norm_ends, nullptr, shares, columns}.fold_two(lane / 4, warp, c, sums.t,
                                                                sums.t_centred);
    }
    if (first + column >= in.channels || !sink.grad) return;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (pair.has[half])
        store(row_at(sink.grad + first + column, pair.pixel + 8 * half, sink.pitch),
              pair.grad[half]);
  }

 private:
  __device__ __forceinline__ static float& at(float (&df)[Tiles][4], int part, int k, int half) {
    const int of_thread = part * kHalfPack + k;
    return df[of_thread / 2][2 * half + of_thread % 2];
  }
  __device__ __forceinline__ static void load(Channels& channels, const T* from) {
    if constexpr (kHalves == 2) {
      const uint4 words = *reinterpret_cast<const uint4*>(from);
      channels = {make_uint2(words.x, words.y), make_uint2(words.z, words.w)};
    } else {
      channels.part[0] = *reinterpret_cast<const uint2*>(from);
    }
  }
  __device__ __forceinline__ static void store(T* to, const Channels& channels) {
    const uint2 one = channels.part[0], last = channels.part[kHalves - 1];
    if constexpr (kHalves == 2)
      *reinterpret_cast<uint4*>(to) = make_uint4(one.x, one.y, last.x, last.y);
    else
      *reinterpret_cast<uint2*>(to) = one;
  }
  template <class To>
  __device__ __forceinline__ static void to_half(To& out, const uint2& half) {
    to_floats(out, reinterpret_cast<const Vector<T, kHalfPack>&>(half));
  }
};

}  // namespace engine::kernels

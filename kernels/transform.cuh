// The formulas of operand.h for V channels of a thread: what a kernel keeps in registers while it sweeps pixels.
#pragma once

#include <climits>

#include "kernels/operand.h"
#include "kernels/partials.cuh"

namespace engine::kernels {

// The norm's values of channels [c, c + V); of channel 0 where c lies beyond the last one.
template <int V>
__device__ __forceinline__ void load_norm(ChannelNorm<float> (&norm)[V],
                                          const NormView<float>& view, int c, int channels) {
#pragma unroll
  for (int k = 0; k < V; ++k) norm[k] = view.channel(c + k < channels ? c + k : 0);
}

// One branch for V values: inside it the activation is a constant.
template <bool Fast, int V>
__device__ __forceinline__ void load_values(Loaded<float> (&out)[V], const float (&x)[V],
                                            const ChannelNorm<float> (&norm)[V], Activation act) {
  const auto load = [&](Activation constant) {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = engine::load_operand<float, Fast>(x[k], norm[k], constant);
  };
  if (act == Activation::silu)
    load(Activation::silu);
  else if (act == Activation::relu)
    load(Activation::relu);
  else if (act == Activation::relu6)
    load(Activation::relu6);
  else
    load(Activation::none);
}

// Whether threads can take V channels of the operand at a time: a gate of single elements is drawn one by one.
template <int V, class T>
bool packs_fit(const OperandView<T>& in) {
  return packs_fit<V>(in.x, in.channels, in.pitch) &&
         (in.gate || !in.random.present() || in.random.whole_image);
}

// The gate's factors at channels [c, c + V) of pixel hw of image n; V > 1 draws only for whole images.
template <class T, int V>
__device__ __forceinline__ void gate_values(float (&gate)[V], const OperandView<T>& in, int n,
                                            int hw, int c) {
  if (in.gate) {
#pragma unroll
    for (int k = 0; k < V; ++k) gate[k] = in.gate[int64_t{n} * in.channels + c + k];
  } else {
    const float drawn = in.random.value(n, static_cast<uint32_t>(hw) * in.channels + c);
#pragma unroll
    for (int k = 0; k < V; ++k) gate[k] = drawn;
  }
}

// What a thread needs to read an operand: f = gate·act(gamma·xhat + beta).
template <class T, int V>
struct OperandReader {
  ChannelNorm<float> norm[V];
  int c;

  __device__ __forceinline__ OperandReader(const OperandView<T>& in, int c) : c(c) {
    load_norm(norm, in.norm, c, in.channels);
  }

  __device__ __forceinline__ void load(Loaded<float> (&out)[V], const Pack<T, V>& x,
                                       const OperandView<T>& in) const {
    float raw[V];
    unpack(raw, x);
    load_values<kFast<T>>(out, raw, norm, in.act);
  }

  // value *= the gate at pixel p of the whole batch.
  __device__ __forceinline__ void apply_gate(float (&value)[V], const OperandView<T>& in,
                                             int p) const {
    if (!in.gate && !in.random.present()) return;
    const int area = in.height * in.width;
    const bool entered = static_cast<unsigned>(p - first_) >= static_cast<unsigned>(area);
    if (entered) {
      image_ = p / area;
      first_ = image_ * area;
    }
    if (entered || (!in.gate && !in.random.whole_image))
      gate_values(gate_, in, image_, p - first_, c);
#pragma unroll
    for (int k = 0; k < V; ++k) value[k] *= gate_[k];
  }

  // f at pixel p of the whole batch.
  __device__ __forceinline__ void value(float (&f)[V], const Pack<T, V>& x,
                                        const OperandView<T>& in, int p) const {
    Loaded<float> loaded[V];
    load(loaded, x, in);
#pragma unroll
    for (int k = 0; k < V; ++k) f[k] = loaded[k].h;
    apply_gate(f, in, p);
  }

 private:
  // The gate last met, and its image: a thread's pixels mostly stay in one, and a draw or a division is long.
  mutable float gate_[V];
  mutable int image_ = 0, first_ = INT_MAX;  // its first pixel
};

// What a thread needs to read a gradient: dy = G − k0 − k1·xhat, with G made from dz if the buffer is gated.
template <class T, int V>
struct GradientReader {
  ChannelNorm<float> norm[V];
  float k0[V] = {}, k1[V] = {};
  int c;

  struct Raw {
    Pack<T, V> grad, x;
  };

  __device__ __forceinline__ GradientReader(const GradientView<T>& in, int c) : c(c) {
    load_norm(norm, in.norm, c, in.channels);
    if (!in.k0) return;
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (c + k < in.channels) k0[k] = in.k0[c + k], k1[k] = in.k1[c + k];
  }

  __device__ __forceinline__ Raw read(const GradientView<T>& in, int64_t pixel) const {
    Raw raw;
    const int64_t at = pixel * in.pitch + c;
    raw.grad = load_pack<V>(in.grad + at);
    if (in.normed() || in.gated()) raw.x = load_pack<V>(in.x + at);
    return raw;
  }

  // n: the image of the pixel.
  __device__ __forceinline__ void value(float (&dy)[V], const Raw& raw, const GradientView<T>& in,
                                        int n) const {
    unpack(dy, raw.grad);
    if (!in.normed() && !in.gated()) return;
    float x[V];
    unpack(x, raw.x);
    if (in.gated()) {
      Loaded<float> of_gate[V];
      load_values<kFast<T>>(of_gate, x, norm, in.act);
      const int64_t at = int64_t{n} * in.channels + c;
#pragma unroll
      for (int k = 0; k < V; ++k)
        dy[k] = norm[k].scale() * (dy[k] * in.gate[at + k] + in.q[at + k]) * of_gate[k].slope;
    }
#pragma unroll
    for (int k = 0; k < V; ++k)
      dy[k] = engine::load_gradient(dy[k], x[k], norm[k], k0[k], k1[k], false, Activation::none,
                                    1.f, 0.f);
  }
};

// The epilogue of every backward, for one thread's channels: t = df·gate·act', Σt, Σt·xhat, G (= or +=) scale·t.
// A learned-gated operand's sink keeps dz = df; image_sums() takes its sums afterwards.
template <class T, int V>
struct GradientWriter {
  float sum_t[V] = {}, sum_t_xhat[V] = {};

  __device__ __forceinline__ static bool reads_x(const GradientSink<T>& sink,
                                                 const OperandView<T>& in) {
    return !sink.gated() && (in.norm.present() || in.act != Activation::none);
  }

  // x: of the operand at that pixel, if reads_x().
  __device__ __forceinline__ void store(const GradientSink<T>& sink, const OperandView<T>& in,
                                        const OperandReader<T, V>& reader, const float (&df)[V],
                                        const Loaded<float> (&x)[V], int p) {
    float t[V];
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = df[k];
    if (!sink.gated()) reader.apply_gate(t, in, p);
    if (reads_x(sink, in)) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        t[k] *= x[k].slope;
        sum_t[k] += t[k];
        sum_t_xhat[k] = fmaf(t[k], x[k].xhat, sum_t_xhat[k]);
        t[k] *= reader.norm[k].scale();
      }
    }
    T* to = sink.grad + int64_t{p} * sink.pitch + reader.c;
    if (sink.how == Write::add) {
      float old[V];
      unpack(old, load_pack<V>(to));
#pragma unroll
      for (int k = 0; k < V; ++k) t[k] += old[k];
    }
    store_pack(to, pack_of<T>(t));
  }

  // All threads of the block call it.
  __device__ void leave(float* partials, int c, int channels, float* buffer) {
    leave_sum(sum_t, 0, partials, c, channels, buffer);
    leave_sum(sum_t_xhat, 1, partials, c, channels, buffer);
  }
};

// The sums of a learned-gated operand, (N, C) each: Σ dz·h, Σ dz·h' and Σ dz·h'·xhat. Without dz
// they are of h, h' and h'·xhat, the first times 1/(H·W). dz has `dz_pitch` channels. The source is
// sweeps/squeeze_excite.cu.
template <class T>
struct ImageSums {
  static void take(float* sum_h, float* sum_slope, float* sum_slope_xhat, const T* dz, int dz_pitch,
                   const OperandView<T>& in, cudaStream_t stream);
  static void take(const GradientSink<T>& sink, const OperandView<T>& in, cudaStream_t stream) {
    take(sink.dz_h, sink.dz_slope, sink.dz_slope_xhat, sink.grad, sink.pitch, in, stream);
  }
};

}  // namespace engine::kernels

// The formulas of operand.h for V channels of a thread: what a kernel keeps in registers while it sweeps pixels.
#pragma once

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
template <int V>
__device__ __forceinline__ void load_values(Loaded<float> (&out)[V], const float (&x)[V],
                                            const ChannelNorm<float> (&norm)[V], Activation act) {
  if (act == Activation::silu) {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = engine::load_operand(x[k], norm[k], Activation::silu);
  } else if (act == Activation::relu) {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = engine::load_operand(x[k], norm[k], Activation::relu);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = engine::load_operand(x[k], norm[k], Activation::none);
  }
}

// The gate's factors at channels [c, c + V) of pixel hw of image n. Four neighbours share one Philox block.
template <class T, int V>
__device__ __forceinline__ void gate_values(float (&gate)[V], const OperandView<T>& in, int n,
                                            int hw, int c) {
  const uint32_t element = static_cast<uint32_t>(hw) * in.channels + c;
  const RandomGate& random = in.random;
  if (!in.gate && random.present() && !random.whole_image && V % 4 == 0 && element % 4 == 0) {
    const RandomKey key{random.step->seed, random.step->epoch,
                        random.step->position + static_cast<uint32_t>(n), random.purpose};
#pragma unroll
    for (int k = 0; k < V; k += 4) {
      const Random4 block = philox(key, (element + k) / 4);
#pragma unroll
      for (int i = 0; i < 4 && k + i < V; ++i)
        gate[k + i] = uniform(block.bits[i]) < random.keep ? 1.f / random.keep : 0.f;
    }
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) gate[k] = c + k < in.channels ? in.gate_value(n, hw, c + k) : 0.f;
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
    load_values(out, raw, norm, in.act);
  }

  // f at pixel p of the whole batch.
  __device__ __forceinline__ void value(float (&f)[V], const Pack<T, V>& x,
                                        const OperandView<T>& in, int p) const {
    Loaded<float> loaded[V];
    load(loaded, x, in);
#pragma unroll
    for (int k = 0; k < V; ++k) f[k] = loaded[k].h;
    if (!in.gate && !in.random.present()) return;
    const int area = in.height * in.width;
    float gate[V];
    gate_values(gate, in, p / area, p % area, c);
#pragma unroll
    for (int k = 0; k < V; ++k) f[k] *= gate[k];
  }
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
      const int64_t at = int64_t{n} * in.channels + c;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        if (c + k >= in.channels) break;
        dy[k] = engine::load_gradient(dy[k], x[k], norm[k], k0[k], k1[k], true, in.act,
                                      in.gate[at + k], in.q[at + k]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k)
        dy[k] = engine::load_gradient(dy[k], x[k], norm[k], k0[k], k1[k], false, Activation::none,
                                      1.f, 0.f);
    }
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
    if (!sink.gated() && (in.gate || in.random.present())) {
      const int area = in.height * in.width;
      float gate[V];
      gate_values(gate, in, p / area, p % area, reader.c);
#pragma unroll
      for (int k = 0; k < V; ++k) t[k] *= gate[k];
    }
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

// The sums of a learned-gated operand, (N, C) each: Σ dz·h, Σ dz·h', Σ dz·h'·xhat; dz null: of h, h', h'·xhat, the
// first times 1/(H·W). dz has `dz_pitch` channels. In squeeze_excite.cu.
template <class T>
void image_sums(float* sum_h, float* sum_slope, float* sum_slope_xhat, const T* dz, int dz_pitch,
                const OperandView<T>& in, cudaStream_t stream);

template <class T>
void image_sums(const GradientSink<T>& sink, const OperandView<T>& in, cudaStream_t stream) {
  image_sums<T>(sink.dz_h, sink.dz_slope, sink.dz_slope_xhat, sink.grad, sink.pitch, in, stream);
}

}  // namespace engine::kernels

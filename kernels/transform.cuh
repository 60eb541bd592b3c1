// The formulas of operand.h for V channels of a thread: the readers and writers that a kernel keeps
// in registers while it sweeps pixels. They are the prologue and the epilogue of every kernel.
#pragma once

#include <climits>

#include "kernels/operand.h"
#include "kernels/partials.cuh"

namespace engine::kernels {

// A norm of one channel as readers keep it: u = scale·(x − mean) + beta.
struct FoldedNorm {
  float mean, inv_std, gamma_inv_std, beta;

  __device__ __forceinline__ float scale() const { return gamma_inv_std; }
};

// The V floats from `from` on; `otherwise` if there are none.
template <int V>
__device__ __forceinline__ void load_floats(float (&to)[V], const float* from, float otherwise) {
#pragma unroll
  for (int k = 0; k < V; ++k) to[k] = from ? from[k] : otherwise;
}

// The norm's values of channels [c, c + V), those from channel 0 on if c lies beyond the last one.
// All loads leave before one is used.
template <int V>
__device__ __forceinline__ void load_norm(FoldedNorm (&norm)[V], const NormView<float>& view, int c,
                                          int channels) {
  const int at = c < channels ? c : 0;
  const auto from = [&](const float* values) { return values ? values + at : nullptr; };
  float mean[V], var[V], gamma[V], beta[V];
  load_floats(mean, from(view.mean), 0.f);
  load_floats(var, from(view.var), 1.f);
  load_floats(gamma, from(view.gamma), 1.f);
  load_floats(beta, from(view.beta), 0.f);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float inv_std = view.present() ? rsqrtf(var[k] + view.eps) : 1.f;
    norm[k] = {mean[k], inv_std, gamma[k] * inv_std, beta[k]};
  }
}

template <bool Fast>
__device__ __forceinline__ Loaded<float> load_value(float x, const ChannelNorm<float>& norm,
                                                    Activation act) {
  return engine::load_operand<float, Fast>(x, norm, act);
}
template <bool Fast>
__device__ __forceinline__ Loaded<float> load_value(float x, const FoldedNorm& norm,
                                                    Activation act) {
  const float centred = x - norm.mean;
  const Activated<float> a =
      activate<float, Fast>(act, fmaf(norm.gamma_inv_std, centred, norm.beta));
  return {centred * norm.inv_std, a.h, a.slope};
}

// Takes one branch for V values: inside it the activation is a constant.
template <bool Fast, int V, class Norm>
__device__ __forceinline__ void load_values(Loaded<float> (&out)[V], const float (&x)[V],
                                            const Norm (&norm)[V], Activation act) {
  const auto load = [&](Activation constant) {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = load_value<Fast>(x[k], norm[k], constant);
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

// Whether threads can take V channels of the operand at a time: a gate of single elements is drawn
// one by one.
template <int V, class T>
bool vectors_fit(const OperandView<T>& in) {
  return vectors_fit<V>(in.x, in.channels, in.pitch) &&
         (in.gate || !in.random.present() || in.random.whole_image);
}

// The gate's factors at channels [c, c + V) of pixel hw of image n; V > 1 draws only for whole
// images.
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
  FoldedNorm norm[V];
  int c;

  __device__ __forceinline__ OperandReader(const OperandView<T>& in, int c) : c(c) {
    load_norm(norm, in.norm, c, in.channels);
  }

  __device__ __forceinline__ void load(Loaded<float> (&out)[V], const Vector<T, V>& x,
                                       const OperandView<T>& in) const {
    float raw[V];
    to_floats(raw, x);
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
  __device__ __forceinline__ void value(float (&f)[V], const Vector<T, V>& x,
                                        const OperandView<T>& in, int p) const {
    Loaded<float> loaded[V];
    load(loaded, x, in);
#pragma unroll
    for (int k = 0; k < V; ++k) f[k] = loaded[k].h;
    apply_gate(f, in, p);
  }

 private:
  // The gate last met, and its image: a thread's pixels mostly stay in one, and a draw or a
  // division is long.
  mutable float gate_[V];
  mutable int image_ = 0, first_ = INT_MAX;  // its first pixel
};

// What a thread needs to read a gradient: dy = G − k0 − k1·xhat, with G made from dz if the buffer
// is gated, and from a sum's gradient if it is scaled. `Folded` multiplies the constants of a
// channel and of an image out once, for a block that stays in an image:
// dy = (dz·gate' + q')·act'(scale·x + shift) − (k1'·x + k0').
template <class T, int V, bool Folded = false>
struct GradientReader {
  FoldedNorm norm[V];  // folded: the mean is 0, and xhat is x
  float k0[V] = {}, k1[V] = {};
  float gate[V], q[V];  // folded, of the image that was entered
  int c;

  struct Raw {
    Vector<T, V> grad, x;
  };

  __device__ __forceinline__ GradientReader(const GradientView<T>& in, int c) : c(c) {
    if (c >= in.channels) return;
    FoldedNorm of[V];
    load_norm(of, in.norm, c, in.channels);
    load_floats(k0, in.k0 ? in.k0 + c : nullptr, 0.f);
    load_floats(k1, in.k1 ? in.k1 + c : nullptr, 0.f);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if constexpr (!Folded) {
        norm[k] = of[k];
      } else {
        norm[k] = {0.f, 1.f, of[k].scale(), fmaf(-of[k].mean, of[k].scale(), of[k].beta)};
        k1[k] *= of[k].inv_std;
        k0[k] = fmaf(-of[k].mean, k1[k], k0[k]);
      }
    }
  }

  // A folded reader enters an image before it makes values of its pixels.
  __device__ __forceinline__ void enter(const GradientView<T>& in, int n) {
    if (!in.gated() || c >= in.channels) return;
    const int64_t at = int64_t{n} * in.channels + c;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      gate[k] = norm[k].scale() * in.gate[at + k];
      q[k] = norm[k].scale() * in.q[at + k];
    }
  }

  __device__ __forceinline__ Raw read(const GradientView<T>& in, int64_t pixel) const {
    return read(in, pixel, c);
  }
  __device__ __forceinline__ static Raw read(const GradientView<T>& in, int64_t pixel, int c) {
    Raw raw;
    const int64_t at = pixel * in.pitch + c;
    raw.grad = load_vector<V>(in.grad + at);
    if (in.normed() || in.gated()) raw.x = load_vector<V>(in.x + at);
    return raw;
  }

  // n is the image of the pixel.
  __device__ __forceinline__ void value(float (&dy)[V], const Raw& raw, const GradientView<T>& in,
                                        int n) const {
    to_floats(dy, raw.grad);
    if (!in.normed() && !in.gated()) return;
    float x[V];
    to_floats(x, raw.x);
    if (in.scaled) {
#pragma unroll
      for (int k = 0; k < V; ++k) dy[k] *= norm[k].scale();
    }
    if (in.gated()) {
      Loaded<float> of_gate[V];
      load_values<kFast<T>>(of_gate, x, norm, in.act);
      const int64_t at = int64_t{n} * in.channels + c;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const float slope = of_gate[k].slope;
        dy[k] = Folded ? ungate(dy[k], gate[k], q[k], 1.f, slope)
                       : ungate(dy[k], in.gate[at + k], in.q[at + k], norm[k].scale(), slope);
      }
    }
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float xhat = (x[k] - norm[k].mean) * norm[k].inv_std;
      dy[k] = Folded ? dy[k] - fmaf(k1[k], x[k], k0[k]) : complete(dy[k], xhat, k0[k], k1[k]);
    }
  }
};

// The epilogue of every forward, for one thread's channels. The statistics are of what is stored,
// after rounding.
template <class T, int V>
struct OutputWriter {
  Statistics<V> statistics;

  // y, at the first of the channels, = value.
  __device__ __forceinline__ void store(T* y, const float (&value)[V], bool counts = true,
                                        bool writes = true) {
    const Vector<T, V> stored = vector_of<T>(value);
    if (writes) store_vector(y, stored);
    if (!counts) return;
    float rounded[V];
    to_floats(rounded, stored);
    statistics.add(rounded);
  }
};

// The epilogue of every backward, for one thread's channels: t = df·gate·act', Σt, Σt·xhat, and
// G (= or +=) scale·t. The sink of a learned-gated operand keeps dz = df, of which ImageSums takes
// the sums afterwards.
template <class T, int V>
struct GradientWriter {
  float sum_t[V] = {}, sum_t_xhat[V] = {};

  __device__ __forceinline__ static bool reads_x(const GradientSink<T>& sink,
                                                 const OperandView<T>& in) {
    return !sink.gated() && (in.norm.present() || in.act != Activation::none);
  }

  // t = df·gate becomes scale·t·act', and its sums are taken.
  template <class Norm>
  __device__ __forceinline__ void take(float (&t)[V], const Loaded<float> (&x)[V],
                                       const Norm* norm) {
#pragma unroll
    for (int k = 0; k < V; ++k) {
      t[k] *= x[k].slope;
      sum_t[k] += t[k];
      sum_t_xhat[k] = fmaf(t[k], x[k].xhat, sum_t_xhat[k]);
      t[k] *= norm[k].scale();
    }
  }

  // Stores G at `to`, the first of the channels, from t = df·gate. x and norm are the operand's
  // there, and only used if `reads_x`.
  template <class Norm>
  __device__ __forceinline__ void store(T* to, Write how, float (&t)[V],
                                        const Loaded<float> (&x)[V], const Norm* norm,
                                        bool reads_x) {
    if (reads_x) take(t, x, norm);
    if (how == Write::add) add(t, load_vector<V>(to));
    store_vector(to, vector_of<T>(t));
  }
  __device__ __forceinline__ static void add(float (&t)[V], const Vector<T, V>& before) {
    float old[V];
    to_floats(old, before);
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] += old[k];
  }

  // The same from df at pixel p of the whole batch.
  __device__ __forceinline__ void store(const GradientSink<T>& sink, const OperandView<T>& in,
                                        const OperandReader<T, V>& reader, const float (&df)[V],
                                        const Loaded<float> (&x)[V], int p) {
    float t[V];
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = df[k];
    if (!sink.gated()) reader.apply_gate(t, in, p);
    store(sink.grad + int64_t{p} * sink.pitch + reader.c, sink.how, t, x, reader.norm,
          reads_x(sink, in));
  }

  // The same where x and G before, if it is added to, have been read; t is df, and overwritten.
  // Without a sink.grad sums are taken and nothing is stored.
  __device__ __forceinline__ void store(const GradientSink<T>& sink, const OperandView<T>& in,
                                        const OperandReader<T, V>& reader, float (&t)[V],
                                        const Vector<T, V>& x, const Vector<T, V>& before, int p) {
    if (!sink.gated()) reader.apply_gate(t, in, p);
    if (reads_x(sink, in)) {
      Loaded<float> loaded[V];
      reader.load(loaded, x, in);
      take(t, loaded, reader.norm);
    }
    if (!sink.grad) return;
    if (sink.how == Write::add) add(t, before);
    store_vector(sink.grad + int64_t{p} * sink.pitch + reader.c, vector_of<T>(t));
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

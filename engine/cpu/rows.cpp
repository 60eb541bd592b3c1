// This file is compiled once per instruction set, with ENGINE_ROW_KERNELS naming its table, see
// CMakeLists.txt. Everything else is in an unnamed namespace and calls no inline function of other
// headers.
#include "engine/cpu/rows.h"

namespace engine::cpu {
namespace {

// ---------------------------------------------------------------- vectors of the target's width

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr char kName[] = "AVX-512";
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr char kName[] = "AVX2";
#else
constexpr int kLanes = 4;
constexpr char kName[] = "SSE";
#endif

using Lanes = float __attribute__((vector_size(kLanes * 4)));
using Unaligned = float __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
using Ints = int32_t __attribute__((vector_size(kLanes * 4)));

// How many channels a vector covers in memory: all lanes, or the first `n` of the last vector.
struct All {
  static constexpr bool all = true;
  int n = kLanes;
};
struct Some {
  static constexpr bool all = false;
  int n;
};

template <class Count>
[[gnu::always_inline]] inline Lanes load(const float* p, Count count) {
  if constexpr (Count::all) return *reinterpret_cast<const Unaligned*>(p);
  Lanes v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < count.n) v[i] = p[i];
  return v;
}
[[gnu::always_inline]] inline Lanes load(const float* p) {
  return load(p, All{});
}

template <class Count>
[[gnu::always_inline]] inline void store(float* p, Lanes v, Count count) {
  if constexpr (Count::all) {
    *reinterpret_cast<Unaligned*>(p) = v;
  } else {
    for (int i = 0; i < kLanes; ++i)
      if (i < count.n) p[i] = v[i];
  }
}
[[gnu::always_inline]] inline void store(float* p, Lanes v) {
  store(p, v, All{});
}
[[gnu::always_inline]] inline void accumulate(float* p, Lanes v) {
  store(p, load(p) + v);
}

// Calls body(channel, count) for every vector of channels.
template <class Body>
[[gnu::always_inline]] inline void for_vectors(int channels, const Body& body) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c, All{});
  if (c < channels) body(c, Some{channels - c});
}

// ---------------------------------------------------------------- formulas

// e^x to 2 ulp in [−87, 88], saturated outside: 2^n·p(r), where r = x − n·ln 2 lies in [−0.35,
// 0.35] and p is the Taylor polynomial of degree 7, with a remainder of 5e-9. NaN stays NaN.
[[gnu::always_inline]] inline Lanes exp(Lanes x) {
  const Lanes low = Lanes{} - 87.f, high = Lanes{} + 88.f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Lanes magic = Lanes{} + 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  const Lanes shifted = x * 0x1.715476p0f + magic, n = shifted - magic;
  // ln 2 is in two parts, so that the first product is exact.
  const Lanes r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  Lanes p = r * (1.f / 5040) + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const Ints power =
      (reinterpret_cast<Ints>(shifted) << 23) + (127 << 23);  // the magic's bits shift out
  return p * reinterpret_cast<Lanes>(power);
}

struct Active {
  Lanes h, slope;
};

[[gnu::always_inline]] inline Lanes positive_part(Lanes u) {
  return u < 0.f ? Lanes{} : u;
}
[[gnu::always_inline]] inline Lanes clamp6(Lanes u) {
  const Lanes zero{}, six = zero + 6.f, below = u > six ? six : u;
  return u < zero ? zero : below;
}

template <Activation act>
[[gnu::always_inline]] inline Lanes activate(Lanes u) {
  if constexpr (act == Activation::relu) return positive_part(u);
  if constexpr (act == Activation::relu6) return clamp6(u);
  if constexpr (act == Activation::silu) return u / (1.f + exp(-u));
  return u;
}

template <Activation act>
[[gnu::always_inline]] inline Active activate_with_slope(Lanes u) {
  const Lanes one = Lanes{} + 1.f;
  if constexpr (act == Activation::relu) return {positive_part(u), u <= 0.f ? Lanes{} : one};
  if constexpr (act == Activation::relu6) {
    const Lanes rising = u >= 6.f ? Lanes{} : one;
    return {clamp6(u), u <= 0.f ? Lanes{} : rising};
  }
  if constexpr (act == Activation::silu) {
    const Lanes s = one / (one + exp(-u)), h = u * s;
    return {h, s + h * (one - s)};
  }
  return {u, one};
}

template <Activation value>
struct Constant {
  static constexpr Activation act = value;
};

// The activation becomes a compile-time constant here and nowhere else.
template <class Body>
[[gnu::always_inline]] inline void with_activation(Activation act, const Body& body) {
  switch (act) {
    case Activation::relu: return body(Constant<Activation::relu>{});
    case Activation::relu6: return body(Constant<Activation::relu6>{});
    case Activation::silu: return body(Constant<Activation::silu>{});
    case Activation::none: return body(Constant<Activation::none>{});
  }
}

// Takes a few pixels at a time, so that the constants of a vector of channels are loaded once for
// them.
constexpr int kPixels = 8;

template <class Body>
[[gnu::always_inline]] inline void for_pixel_groups(int64_t pixels, const Body& body) {
  for (int64_t p = 0; p < pixels; p += kPixels)
    body(p, pixels - p < kPixels ? static_cast<int>(pixels - p) : kPixels);
}

// ---------------------------------------------------------------- operands and gradients

void load_operand(float* f, int64_t f_pitch, const OperandRows& in, int64_t pixels) {
  with_activation(in.act, [&](auto constant) {
    for_pixel_groups(pixels, [&](int64_t p0, int group) {
      for_vectors(in.channels, [&](int c, auto count) {
        const Lanes mean = load(in.norm.mean + c), scale = load(in.norm.scale + c),
                    beta = load(in.norm.beta + c);
        const Lanes gate = in.gate ? load(in.gate + c) : Lanes{} + 1.f;
        for (int64_t p = p0; p < p0 + group; ++p) {
          const Lanes u = (load(in.x + p * in.pitch + c, count) - mean) * scale + beta;
          Lanes h = activate<decltype(constant)::act>(u) * gate;
          if (in.mask) h *= load(in.mask + p * in.channels + c, count);
          store(f + p * f_pitch + c, h, count);
        }
      });
    });
  });
}

void load_gradient(float* dy, int64_t dy_pitch, const GradientRows& g, int64_t pixels) {
  with_activation(g.act, [&](auto constant) {
    for_pixel_groups(pixels, [&](int64_t p0, int group) {
      for_vectors(g.channels, [&](int c, auto count) {
        if (!g.x) {
          for (int64_t p = p0; p < p0 + group; ++p)
            store(dy + p * dy_pitch + c, load(g.grad + p * g.pitch + c, count), count);
          return;
        }
        const Lanes mean = load(g.norm.mean + c), inv_std = load(g.norm.inv_std + c);
        const Lanes scale = load(g.norm.scale + c), beta = load(g.norm.beta + c);
        const Lanes k0 = load(g.k0 + c), k1 = load(g.k1 + c);
        const Lanes gate = g.gate ? load(g.gate + c) : Lanes{},
                    q = g.gate ? load(g.q + c) : Lanes{};
        for (int64_t p = p0; p < p0 + group; ++p) {
          const Lanes centred = load(g.x + p * g.pitch + c, count) - mean;
          Lanes d = load(g.grad + p * g.pitch + c, count);
          if (g.scaled) d *= scale;
          if (g.gate)
            d = scale * (d * gate + q) *
                activate_with_slope<decltype(constant)::act>(centred * scale + beta).slope;
          store(dy + p * dy_pitch + c, d - k0 - k1 * (centred * inv_std), count);
        }
      });
    });
  });
}

template <Activation act, bool gated>
[[gnu::always_inline]] inline void store_gradient(const SinkRows& sink, const float* df,
                                                  int64_t df_pitch, const OperandRows& in,
                                                  int64_t pixels) {
  for_pixel_groups(pixels, [&](int64_t p0, int group) {
    for_vectors(in.channels, [&](int c, auto count) {
      const Lanes mean = load(in.norm.mean + c), inv_std = load(in.norm.inv_std + c);
      const Lanes scale = load(in.norm.scale + c), beta = load(in.norm.beta + c);
      const Lanes gate = in.gate ? load(in.gate + c) : Lanes{} + 1.f;
      Lanes s0{}, s1{}, s2{};
      for (int64_t p = p0; p < p0 + group; ++p) {
        const Lanes centred = load(in.x + p * in.pitch + c, count) - mean;
        const Lanes xhat = centred * inv_std;
        const Active a = activate_with_slope<act>(centred * scale + beta);
        const Lanes d = load(df + p * df_pitch + c, count);
        float* grad = sink.grad + p * sink.pitch + c;
        Lanes factor = gate;
        if (in.mask) factor *= load(in.mask + p * in.channels + c, count);
        if (sink.f) store(sink.f + p * sink.f_pitch + c, a.h * factor, count);
        if constexpr (gated) {
          const Lanes slope = d * a.slope;
          s0 += d * a.h;
          s1 += slope;
          s2 += slope * xhat;
          store(grad, sink.add ? load(grad, count) + d : d, count);
        } else {
          const Lanes t = d * factor * a.slope, g = scale * t;
          s0 += t;
          s1 += t * xhat;
          if (sink.grad) store(grad, sink.add ? load(grad, count) + g : g, count);
        }
      }
      if (!sink.sums[0]) return;
      accumulate(sink.sums[0] + c, s0);
      accumulate(sink.sums[1] + c, s1);
      if (gated) accumulate(sink.sums[2] + c, s2);
    });
  });
}

void store_gradient(const SinkRows& sink, const float* df, int64_t df_pitch, const OperandRows& in,
                    int64_t pixels) {
  with_activation(in.act, [&](auto constant) {
    if (sink.gated)
      store_gradient<decltype(constant)::act, true>(sink, df, df_pitch, in, pixels);
    else
      store_gradient<decltype(constant)::act, false>(sink, df, df_pitch, in, pixels);
  });
}

void store_output(const OutputRows& out, int64_t pixels) {
  with_activation(out.act, [&](auto constant) {
    for_pixel_groups(pixels, [&](int64_t p0, int group) {
      for_vectors(out.channels, [&](int c, auto count) {
        const Lanes bias = out.bias ? load(out.bias + c) : Lanes{};
        const Lanes shift = out.first ? load(out.shift + c) : Lanes{};
        Lanes first{}, second{};
        for (int64_t p = p0; p < p0 + group; ++p) {
          Lanes y = load(out.dense + p * out.dense_pitch + c, count) + bias;
          if (out.other) y += load(out.other + p * out.other_pitch + c, count);
          y = activate<decltype(constant)::act>(y);
          const Lanes d = y - shift;
          first += d;
          second += d * d;
          store(out.y + p * out.pitch + c, y, count);
        }
        if (!out.first) return;
        accumulate(out.first + c, first);
        accumulate(out.second + c, second);
      });
    });
  });
}

void squeeze(float* const sums[3], const OperandRows& in, int64_t pixels) {
  with_activation(in.act, [&](auto constant) {
    for_pixel_groups(pixels, [&](int64_t p0, int group) {
      for_vectors(in.channels, [&](int c, auto count) {
        const Lanes mean = load(in.norm.mean + c), inv_std = load(in.norm.inv_std + c);
        const Lanes scale = load(in.norm.scale + c), beta = load(in.norm.beta + c);
        Lanes s0{}, s1{}, s2{};
        for (int64_t p = p0; p < p0 + group; ++p) {
          const Lanes centred = load(in.x + p * in.pitch + c, count) - mean;
          const Active a = activate_with_slope<decltype(constant)::act>(centred * scale + beta);
          s0 += a.h;
          s1 += a.slope;
          s2 += a.slope * (centred * inv_std);
        }
        accumulate(sums[0] + c, s0);
        accumulate(sums[1] + c, s1);
        accumulate(sums[2] + c, s2);
      });
    });
  });
}

void column_sums(float* sums, const float* x, int64_t pitch, int64_t pixels, int channels) {
  for_pixel_groups(pixels, [&](int64_t p0, int group) {
    for_vectors(channels, [&](int c, auto count) {
      Lanes sum{};
      for (int64_t p = p0; p < p0 + group; ++p) sum += load(x + p * pitch + c, count);
      accumulate(sums + c, sum);
    });
  });
}

// ---------------------------------------------------------------- depthwise

// `outputs` neighbouring outputs of `vectors` vectors of channels, kept in registers.
template <int outputs, int vectors, class Count>
[[gnu::always_inline]] inline void correlate_block(const CorrelateRows& r, int o, int c,
                                                   Count count) {
  const int64_t pixel = padded(r.channels);
  Lanes sum[outputs][vectors] = {};
  for (int i = 0; i < r.count; ++i) {
    const float* in = r.rows[i] + o * r.stride * pixel + c;
    const float* tap = r.taps[i] + c;
    for (int k = 0; k < r.kernel; ++k, in += pixel, tap += pixel) {
      Lanes weight[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) weight[v] = load(tap + v * kLanes);
#pragma GCC unroll 4
      for (int j = 0; j < outputs; ++j)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v)
          sum[j][v] += load(in + j * r.stride * pixel + v * kLanes) * weight[v];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < outputs; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      store(r.out + (o + j) * r.out_step + c + v * kLanes, sum[j][v], count);
}

template <int vectors, class Count>
[[gnu::always_inline]] inline void correlate_channels(const CorrelateRows& r, int c, Count count) {
  int o = 0;
  for (; o + 4 <= r.width; o += 4) correlate_block<4, vectors>(r, o, c, count);
  for (; o < r.width; ++o) correlate_block<1, vectors>(r, o, c, count);
}

void correlate(const CorrelateRows& r) {
  int c = 0;
  for (; c + 2 * kLanes <= r.channels; c += 2 * kLanes) correlate_channels<2>(r, c, All{});
  for (; c + kLanes <= r.channels; c += kLanes) correlate_channels<1>(r, c, All{});
  if (c < r.channels) correlate_channels<1>(r, c, Some{r.channels - c});
}

template <int taps>
[[gnu::always_inline]] inline void correlate_taps(float* to, const float* f, const float* dy,
                                                  int width, int channels, int stride) {
  const int64_t pixel = padded(channels);
  for (int c = 0; c < channels; c += kLanes) {
    Lanes sum[taps] = {};
    for (int j = 0; j < width; ++j) {
      const Lanes d = load(dy + j * pixel + c);
#pragma GCC unroll 8
      for (int k = 0; k < taps; ++k) sum[k] += load(f + (int64_t{j} * stride + k) * pixel + c) * d;
    }
#pragma GCC unroll 8
    for (int k = 0; k < taps; ++k) accumulate(to + k * pixel + c, sum[k]);
  }
}

void correlate_taps(float* taps, const float* f, const float* dy, int width, int channels,
                    int kernel, int stride) {
  const int64_t pixel = padded(channels);
  int k = 0;
  for (; k + 5 <= kernel; k += 5)
    correlate_taps<5>(taps + k * pixel, f + k * pixel, dy, width, channels, stride);
  for (; k + 3 <= kernel; k += 3)
    correlate_taps<3>(taps + k * pixel, f + k * pixel, dy, width, channels, stride);
  for (; k < kernel; ++k)
    correlate_taps<1>(taps + k * pixel, f + k * pixel, dy, width, channels, stride);
}

// ---------------------------------------------------------------- pooling and sums of arrays

template <class Body>
[[gnu::always_inline]] inline void for_array(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, All{});
  if (i < n) body(i, Some{static_cast<int>(n - i)});
}

void add_scaled(float* y, const float* x, float factor, int64_t n) {
  for_array(n, [&](int64_t i, auto count) {
    store(y + i, load(y + i, count) + load(x + i, count) * factor, count);
  });
}

void multiply_slopes(float* dy, const float* h, int64_t n, Activation act) {
  with_activation(act, [&](auto constant) {
    for_array(n, [&](int64_t i, auto count) {
      const Lanes slope = activate_with_slope<decltype(constant)::act>(load(h + i, count)).slope;
      store(dy + i, load(dy + i, count) * slope, count);
    });
  });
}

void maximum(float* y, const float* x, int64_t n) {
  for_array(n, [&](int64_t i, auto count) {
    const Lanes a = load(y + i, count), b = load(x + i, count);
    store(y + i, (b > a) | (b != b) ? b : a, count);
  });
}

void route_maximum(float* df, float* left, const float* f, const float* best, int64_t n) {
  for_array(n, [&](int64_t i, auto count) {
    const Lanes dy = load(left + i, count);
    const Lanes here = load(f + i, count), most = load(best + i, count);
    const auto hit = here == most;
    store(df + i, load(df + i, count) + (hit ? dy : Lanes{}), count);
    store(left + i, hit ? Lanes{} : dy, count);
  });
}

}  // namespace

const RowKernels& ENGINE_ROW_KERNELS() {
  static constexpr RowKernels kTable = {
      kName,           load_operand, load_gradient, store_gradient, store_output,
      multiply_slopes, squeeze,      column_sums,   correlate,      correlate_taps,
      add_scaled,      maximum,      route_maximum};
  return kTable;
}

}  // namespace engine::cpu

#include "kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace engine::reference {

namespace {

// Calls body(n, hw, c, dense index, strided index) for every element of a slice.
template <class View, class Body>
void for_each(const View& v, Body body) {
  const int pixels = v.height * v.width;
  int64_t dense = 0;
  for (int n = 0; n < v.batch; ++n)
    for (int hw = 0; hw < pixels; ++hw)
      for (int c = 0; c < v.channels; ++c, ++dense)
        body(n, hw, c, dense, (int64_t{n} * pixels + hw) * v.pitch + c);
}

// Whether x takes the place of the maximum so far: NaN does, and stays, as in PyTorch.
template <class T>
bool exceeds(T x, T maximum) {
  return x > maximum || std::isnan(x);
}

template <class T>
int64_t size_of_dense(const T& view) {
  return view.pixels() * view.channels;
}

// Calls body(n, oh, ow, h, w, kh, kw) for every tap of every output that lies in the image.
template <class Body>
void for_each_tap(int batch, int oheight, int owidth, int height, int width, Window s, Body body) {
  for (int n = 0; n < batch; ++n)
    for (int oh = 0; oh < oheight; ++oh)
      for (int ow = 0; ow < owidth; ++ow)
        for (int kh = 0; kh < s.kernel_h; ++kh)
          for (int kw = 0; kw < s.kernel_w; ++kw) {
            const int h = oh * s.stride + kh - s.padding, w = ow * s.stride + kw - s.padding;
            if (h >= 0 && h < height && w >= 0 && w < width) body(n, oh, ow, h, w, kh, kw);
          }
}

}  // namespace

template <class T>
std::vector<T> load_operand(const OperandView<T>& in) {
  std::vector<T> f(size_of_dense(in));
  for_each(in, [&](int n, int hw, int c, int64_t dense, int64_t at) {
    f[dense] =
        engine::load_operand(in.x[at], in.norm.channel(c), in.act).h * in.gate_value(n, hw, c);
  });
  return f;
}

template <class T>
void store_output(const SliceView<T>& out, const std::vector<T>& dense, const Real<T>* bias) {
  for_each(out, [&](int, int, int c, int64_t from, int64_t at) {
    out.y[at] = dense[from] + (bias ? bias[c] : 0);
  });
  if (!out.mean) return;
  std::vector<double> mean(out.channels), var(out.channels);
  const double count = static_cast<double>(out.pixels());
  for_each(out, [&](int, int, int c, int64_t, int64_t at) { mean[c] += out.y[at] / count; });
  for_each(out, [&](int, int, int c, int64_t, int64_t at) {
    const double d = out.y[at] - mean[c];
    var[c] += d * d / count;
  });
  std::copy(mean.begin(), mean.end(), out.mean);
  std::copy(var.begin(), var.end(), out.var);
}

template <class T>
std::vector<T> load_gradient(const GradientView<T>& g) {
  std::vector<T> dy(size_of_dense(g));
  for_each(g, [&](int n, int, int c, int64_t dense, int64_t at) {
    const bool reads_x = g.normed() || g.gated();
    const int64_t nc = int64_t{n} * g.channels + c;
    dy[dense] =
        engine::load_gradient<Real<T>>(g.grad[at], reads_x ? g.x[at] : T(0), g.norm.channel(c),
                                       g.k0 ? g.k0[c] : 0, g.k1 ? g.k1[c] : 0, g.scaled, g.gated(),
                                       g.act, g.gated() ? g.gate[nc] : 0, g.gated() ? g.q[nc] : 0);
  });
  return dy;
}

template <class T>
void add_sums(const GradientSink<T>& sink, const std::vector<Real<T>>& sum_t,
              const std::vector<Real<T>>& sum_t_xhat, const OperandView<T>& in) {
  if (!sink.dgamma) return;
  for (int c = 0; c < in.channels; ++c) {
    const Real<T> share = in.norm.channel(c).scale() / Real<T>(in.pixels());
    sink.dbeta[c] += sum_t[c];
    sink.dgamma[c] += sum_t_xhat[c];
    sink.k0[c] += share * sum_t[c];
    sink.k1[c] += share * sum_t_xhat[c];
  }
}

template <class T>
void store_gradient(const GradientSink<T>& sink, const std::vector<T>& df,
                    const OperandView<T>& in) {
  if (!sink.wanted()) return;
  using R = Real<T>;
  std::vector<R> sum_t(in.channels), sum_t_xhat(in.channels);
  if (sink.gated())
    for (R* sums : {sink.dz_h, sink.dz_slope, sink.dz_slope_xhat})
      std::fill_n(sums, int64_t{in.batch} * in.channels, R(0));
  const int pixels = in.height * in.width;
  for_each(in, [&](int n, int hw, int c, int64_t dense, int64_t at) {
    const ChannelNorm<R> norm = in.norm.channel(c);
    const bool reads_x = in.norm.present() || in.act != Activation::none || sink.gated();
    const Loaded<R> x = engine::load_operand<R>(reads_x ? in.x[at] : T(0), norm, in.act);
    T unwanted{};
    T& stored = sink.grad ? sink.grad[(int64_t{n} * pixels + hw) * sink.pitch + c] : unwanted;
    if (sink.gated()) {
      const int64_t nc = int64_t{n} * in.channels + c;
      sink.dz_h[nc] += df[dense] * x.h;
      sink.dz_slope[nc] += df[dense] * x.slope;
      sink.dz_slope_xhat[nc] += df[dense] * x.slope * x.xhat;
      stored = df[dense] + (sink.how == Write::add ? stored : T(0));
      return;
    }
    const R t = df[dense] * in.gate_value(n, hw, c) * x.slope;
    sum_t[c] += t;
    sum_t_xhat[c] += t * x.xhat;
    stored = norm.scale() * t + (sink.how == Write::add ? stored : T(0));
  });
  add_sums(sink, sum_t, sum_t_xhat, in);
}

// ---------------------------------------------------------------- convolution

template <class T>
std::vector<T> convolve(const std::vector<T>& f, const T* weight, const OperandView<T>& in,
                        const SliceView<T>& out, Window s, bool depthwise) {
  std::vector<T> y(size_of_dense(out));
  const int ci = in.channels, co = out.channels;
  for_each_tap(in.batch, out.height, out.width, in.height, in.width, s,
               [&](int n, int oh, int ow, int h, int w, int kh, int kw) {
                 const T* x = &f[((int64_t{n} * in.height + h) * in.width + w) * ci];
                 T* to = &y[((int64_t{n} * out.height + oh) * out.width + ow) * co];
                 const int tap = kh * s.kernel_w + kw, taps = s.kernel_h * s.kernel_w;
                 for (int o = 0; o < co; ++o) {
                   if (depthwise) {
                     to[o] += x[o] * weight[int64_t{o} * taps + tap];
                   } else {
                     const T* row = weight + (int64_t{o} * taps + tap) * ci;
                     T sum = 0;
                     for (int i = 0; i < ci; ++i) sum += x[i] * row[i];
                     to[o] += sum;
                   }
                 }
               });
  return y;
}

template <class T>
std::vector<T> convolve_transposed(const std::vector<T>& dy, const T* weight,
                                   const OperandView<T>& in, const GradientView<T>& out, Window s,
                                   bool depthwise) {
  std::vector<T> df(size_of_dense(in));
  const int ci = in.channels, co = out.channels;
  for_each_tap(in.batch, out.height, out.width, in.height, in.width, s,
               [&](int n, int oh, int ow, int h, int w, int kh, int kw) {
                 T* to = &df[((int64_t{n} * in.height + h) * in.width + w) * ci];
                 const T* from = &dy[((int64_t{n} * out.height + oh) * out.width + ow) * co];
                 const int tap = kh * s.kernel_w + kw, taps = s.kernel_h * s.kernel_w;
                 for (int o = 0; o < co; ++o) {
                   if (depthwise) {
                     to[o] += from[o] * weight[int64_t{o} * taps + tap];
                   } else {
                     const T* row = weight + (int64_t{o} * taps + tap) * ci;
                     for (int i = 0; i < ci; ++i) to[i] += from[o] * row[i];
                   }
                 }
               });
  return df;
}

template <class T>
void convolve_weight(Real<T>* dweight, const std::vector<T>& dy, const std::vector<T>& f,
                     const OperandView<T>& in, const GradientView<T>& out, Window s,
                     bool depthwise) {
  const int ci = in.channels, co = out.channels, taps = s.kernel_h * s.kernel_w;
  std::fill_n(dweight, int64_t{co} * taps * (depthwise ? 1 : ci), Real<T>(0));
  for_each_tap(in.batch, out.height, out.width, in.height, in.width, s,
               [&](int n, int oh, int ow, int h, int w, int kh, int kw) {
                 const T* x = &f[((int64_t{n} * in.height + h) * in.width + w) * ci];
                 const T* from = &dy[((int64_t{n} * out.height + oh) * out.width + ow) * co];
                 const int tap = kh * s.kernel_w + kw;
                 for (int o = 0; o < co; ++o) {
                   if (depthwise) {
                     dweight[int64_t{o} * taps + tap] += from[o] * x[o];
                   } else {
                     Real<T>* row = dweight + (int64_t{o} * taps + tap) * ci;
                     for (int i = 0; i < ci; ++i) row[i] += from[o] * x[i];
                   }
                 }
               });
}

template <class T>
void bias_gradient(Real<T>* dbias, const std::vector<T>& dy, int channels) {
  for (size_t i = 0; i < dy.size(); ++i) dbias[i % channels] += dy[i];
}

// ---------------------------------------------------------------- pooling, sums

template <class T>
void pool_forward(const SliceView<T>& out, const OperandView<T>& in, Window s, bool maximal) {
  const std::vector<T> f = load_operand(in);
  std::vector<T> y(size_of_dense(out), maximal ? -std::numeric_limits<T>::infinity() : T(0));
  const int c = in.channels;
  for_each_tap(in.batch, out.height, out.width, in.height, in.width, s,
               [&](int n, int oh, int ow, int h, int w, int, int) {
                 const T* x = &f[((int64_t{n} * in.height + h) * in.width + w) * c];
                 T* to = &y[((int64_t{n} * out.height + oh) * out.width + ow) * c];
                 for (int i = 0; i < c; ++i) {
                   if (!maximal)
                     to[i] += x[i] / T(s.kernel_h * s.kernel_w);
                   else if (exceeds(x[i], to[i]))
                     to[i] = x[i];
                 }
               });
  store_output<T>(out, y, nullptr);
}

template <class T>
void pool_backward(const GradientSink<T>& sink, const GradientView<T>& gradient,
                   const OperandView<T>& in, Window s, bool maximal) {
  const std::vector<T> dy = load_gradient(gradient), f = load_operand(in);
  std::vector<T> df(f.size());
  const int c = in.channels;
  std::vector<T> best(dy.size(), -std::numeric_limits<T>::infinity());
  std::vector<int64_t> from(dy.size(), -1);  // of the maximum: the first in scan order
  for_each_tap(in.batch, gradient.height, gradient.width, in.height, in.width, s,
               [&](int n, int oh, int ow, int h, int w, int, int) {
                 const int64_t x = ((int64_t{n} * in.height + h) * in.width + w) * c;
                 const int64_t y = ((int64_t{n} * gradient.height + oh) * gradient.width + ow) * c;
                 for (int i = 0; i < c; ++i) {
                   if (!maximal)
                     df[x + i] += dy[y + i] / T(s.kernel_h * s.kernel_w);
                   else if (from[y + i] < 0 || exceeds(f[x + i], best[y + i]))
                     best[y + i] = f[x + i], from[y + i] = x + i;
                 }
               });
  if (maximal)
    for (size_t i = 0; i < dy.size(); ++i) df[from[i]] += dy[i];
  store_gradient(sink, df, in);
}

template <class T>
void add_forward(const SliceView<T>& out, const OperandView<T>& a, const OperandView<T>& b,
                 Activation act) {
  std::vector<T> sum = load_operand(a);
  const std::vector<T> other = load_operand(b);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = activate<Real<T>>(act, sum[i] + other[i]).h;
  store_output<T>(out, sum, nullptr);
}

template <class T>
void multiply_slopes(std::vector<T>& dy, const ActivatedGradient<T>& sum) {
  for (size_t i = 0; i < dy.size(); ++i) dy[i] *= activate<Real<T>>(sum.act, sum.h[i]).slope;
}

// ---------------------------------------------------------------- squeeze-excite

template <class T>
void squeeze_excite_forward(const GateView<Real<T>>& gate, const OperandView<T>& in,
                            const SqueezeExcitePointers<Real<T>>& weights, int squeezed) {
  using R = Real<T>;
  const int c = in.channels, s = squeezed;
  const R pixels = R(in.height) * in.width;
  for (R* sums : {gate.pooled, gate.slope, gate.slope_xhat})
    std::fill_n(sums, int64_t{in.batch} * c, R(0));
  for_each(in, [&](int n, int, int ch, int64_t, int64_t at) {
    const Loaded<R> x = engine::load_operand<R>(in.x[at], in.norm.channel(ch), in.act);
    const int64_t nc = int64_t{n} * c + ch;
    gate.pooled[nc] += x.h / pixels;
    gate.slope[nc] += x.slope;
    gate.slope_xhat[nc] += x.slope * x.xhat;
  });
  for (int n = 0; n < in.batch; ++n) {
    for (int j = 0; j < s; ++j) {
      R u = weights.reduce_bias[j];
      for (int i = 0; i < c; ++i)
        u += weights.reduce[int64_t{j} * c + i] * gate.pooled[int64_t{n} * c + i];
      const Activated<R> a = activate(Activation::silu, u);
      gate.hidden[int64_t{n} * s + j] = a.h;
      gate.dhidden[int64_t{n} * s + j] = a.slope;
    }
    for (int i = 0; i < c; ++i) {
      R u = weights.expand_bias[i];
      for (int j = 0; j < s; ++j)
        u += weights.expand[int64_t{i} * s + j] * gate.hidden[int64_t{n} * s + j];
      gate.gate[int64_t{n} * c + i] = sigmoid(u);
    }
  }
}

template <class T>
void squeeze_excite_backward(const GradientSink<T>& sink, const GateView<Real<T>>& gate,
                             const SqueezeExcitePointers<Real<T>>& gradients,
                             const OperandView<T>& in,
                             const SqueezeExcitePointers<Real<T>>& weights, int squeezed) {
  using R = Real<T>;
  const int c = in.channels, s = squeezed;
  std::vector<R> d2(c), d1(s), sum_t(c), sum_t_xhat(c);
  for (int n = 0; n < in.batch; ++n) {
    const int64_t nc = int64_t{n} * c, ns = int64_t{n} * s;
    for (int i = 0; i < c; ++i) {
      const R g = gate.gate[nc + i];
      d2[i] = gate.dz_h[nc + i] * g * (1 - g);
      gradients.expand_bias[i] += d2[i];
      for (int j = 0; j < s; ++j)
        gradients.expand[int64_t{i} * s + j] += d2[i] * gate.hidden[ns + j];
    }
    for (int j = 0; j < s; ++j) {
      d1[j] = 0;
      for (int i = 0; i < c; ++i) d1[j] += d2[i] * weights.expand[int64_t{i} * s + j];
      d1[j] *= gate.dhidden[ns + j];
      gradients.reduce_bias[j] += d1[j];
      for (int i = 0; i < c; ++i)
        gradients.reduce[int64_t{j} * c + i] += d1[j] * gate.pooled[nc + i];
    }
    for (int i = 0; i < c; ++i) {
      R q = 0;
      for (int j = 0; j < s; ++j) q += d1[j] * weights.reduce[int64_t{j} * c + i];
      q /= R(in.height) * in.width;
      gate.q[nc + i] = q;
      sum_t[i] += gate.gate[nc + i] * gate.dz_slope[nc + i] + q * gate.slope[nc + i];
      sum_t_xhat[i] += gate.gate[nc + i] * gate.dz_slope_xhat[nc + i] + q * gate.slope_xhat[nc + i];
    }
  }
  add_sums(sink, sum_t, sum_t_xhat, in);
}

// ---------------------------------------------------------------- loss, updates, images

template <class T>
void cross_entropy(T* dlogits, StepResult& result, const OperandView<T>& logits,
                   const TargetView& targets, const ScaleState& scale) {
  const int classes = logits.channels;
  const double divisor = targets.params->divisor;
  result.loss = 0;
  result.correct1 = result.correct5 = 0;
  for (int n = 0; n < logits.batch; ++n) {
    const T* z = logits.x + int64_t{n} * logits.pitch;
    const double top = *std::max_element(z, z + classes);
    double sum = 0;
    for (int c = 0; c < classes; ++c) sum += std::exp(z[c] - top);
    const TargetRow target = targets.row(n);
    const int label = target.label;
    double total = 0;
    for (int c = 0; c < classes; ++c) {
      const double q = target.at(c);
      if (q == 0) continue;
      total += q;
      result.loss -= q * (z[c] - top - std::log(sum)) / divisor;
    }
    const int rank = rank_of(label, z, classes);
    result.correct1 += rank < 1;
    result.correct5 += rank < 5;
    if (!dlogits) continue;
    for (int c = 0; c < classes; ++c)
      dlogits[int64_t{n} * logits.pitch + c] = static_cast<T>(
          (total * std::exp(z[c] - top) / sum - target.at(c)) * scale.scale / divisor);
  }
}

template <class T>
void binary_cross_entropy(T* dlogits, StepResult& result, const OperandView<T>& logits,
                          const TargetView& targets, const ScaleState& scale) {
  const double divisor = targets.params->divisor;
  result.loss = 0;
  result.correct1 = result.correct5 = 0;
  for (int n = 0; n < logits.batch; ++n) {
    bool wrong = false;
    for (int c = 0; c < logits.channels; ++c) {
      const int64_t at = int64_t{n} * logits.pitch + c;
      const double z = logits.x[at];
      const LabelTarget target = targets.label(n, c);
      result.loss += label_loss(z, target) / divisor;
      wrong = wrong || is_wrong(z, targets.presence_of(n, c));
      if (dlogits) dlogits[at] = static_cast<T>(label_slope(z, target) * scale.scale / divisor);
    }
    result.correct1 += !wrong;
  }
}

template <class R>
void update_running(R* running_mean, R* running_var, const R* mean, const R* var, int channels,
                    R momentum, int64_t count) {
  const R unbias = count > 1 ? R(count) / R(count - 1) : R(1);
  for (int c = 0; c < channels; ++c) {
    running_mean[c] += momentum * (mean[c] - running_mean[c]);
    running_var[c] += momentum * (unbias * var[c] - running_var[c]);
  }
}

namespace {

template <int C>
int32_t mean_level_of(const ImageRecord& r, const ImageSource& s) {
  uint64_t sum = 0;
  for (int y = 0; y < s.height; ++y)
    for (int x = 0; x < s.width; ++x)
      sum +=
          gray_level(record_pixel<C>(r, s.pack, s.height, s.width, y, x, contrast_position(r), 0));
  return mean_level(sum, int64_t{s.height} * s.width);
}

template <int C, class T>
void load_images(T* image, const InputView& view) {
  const ImageSource source = view.source();
  if (source.records)
    for (int n = 0; n < view.batch; ++n)
      view.mean_levels[n] = mean_level_of<C>(source.records[n], source);
  for (int n = 0; n < view.batch; ++n)
    for (int y = 0; y < view.height; ++y)
      for (int x = 0; x < view.width; ++x, image += C) {
        T pixel[C];
        input_pixel<C>(pixel, source, n, y, x, view.mean, view.std);
        std::copy_n(pixel, C, image);
      }
}

}  // namespace

template <class T>
void load_images(T* image, const InputView& view) {
  view.channels == 1 ? load_images<1>(image, view) : load_images<3>(image, view);
}

// ---------------------------------------------------------------- instantiations

// Every function for one type: whoever instantiates the list instantiates them all.
template <class T>
struct Functions {
  static constexpr std::tuple kAll{&load_operand<T>,
                                   &store_output<T>,
                                   &load_gradient<T>,
                                   &store_gradient<T>,
                                   &add_sums<T>,
                                   &convolve<T>,
                                   &convolve_transposed<T>,
                                   &convolve_weight<T>,
                                   &bias_gradient<T>,
                                   &pool_forward<T>,
                                   &pool_backward<T>,
                                   &add_forward<T>,
                                   &multiply_slopes<T>,
                                   &squeeze_excite_forward<T>,
                                   &squeeze_excite_backward<T>,
                                   &cross_entropy<T>,
                                   &binary_cross_entropy<T>,
                                   &update_running<T>,
                                   static_cast<void (*)(T*, const InputView&)>(&load_images<T>)};
};
template struct Functions<float>;
template struct Functions<double>;

}  // namespace engine::reference

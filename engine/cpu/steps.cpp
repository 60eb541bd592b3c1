// Every step but the convolutions' own forms: squeeze-excite, pooling, sums, the loss.
#include "engine/cpu/steps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

int image_workers(const Threads& threads, int batch) {
  return std::min(threads.count(), batch);
}

Share pixels_of(Share images, int64_t pixels_per_image) {
  return {images.first * pixels_per_image, images.last * pixels_per_image};
}

}  // namespace

// ---------------------------------------------------------------- convolution

StepExec prepare(const Threads& threads, const Program& program, int index, const Conv& conv) {
  ConvViews c{.in = program.operand<float>(conv.in),
              .out = program.output<float>(conv.out),
              .weight = program.weight<float>(conv.weight),
              .bias = conv.bias == kNone ? nullptr : program.master<float>(conv.bias),
              .window = conv.window};
  if (program.training()) {
    c.dy = program.gradient<float>(conv.out);
    c.sink = program.sink<float>(index, 0, conv.in);
    c.dweight = program.dparameter<float>(conv.weight);
    if (c.bias) c.dbias = program.dparameter<float>(conv.bias);
  }
  if (conv.depthwise) return prepare_depthwise(threads, program, conv.name, c);
  const bool whole_image = conv.window.kernel_h == c.in.height &&
                           conv.window.kernel_w == c.in.width && c.out.height == 1 &&
                           c.out.width == 1 && conv.window.padding == 0;
  return conv.pointwise() || whole_image ? prepare_matrix(threads, program, conv.name, c)
                                         : prepare_dense(threads, program, conv.name, c);
}

// ---------------------------------------------------------------- squeeze-excite

namespace {

struct Squeeze {
  OperandView<float> in;
  GateView<float> gate;
  GradientSink<float> sums;
  int squeezed;
  const float *reduce, *reduce_bias, *expand, *expand_bias;  // (S, C), (S,), (C, S), (C,)
  float *dreduce, *dreduce_bias, *dexpand, *dexpand_bias;
};

// One sweep for the means of h and the sums of its slope; the rest is (N, C) vectors.
class SqueezeForward {
 public:
  SqueezeForward(const Threads& threads, const Program& program, const std::string& name,
                 const Squeeze& s)
      : threads_(threads), s_(s) {
    Workspace workspace(program, name);
    const size_t sums = 3 * block_bytes<float>(padded(s.in.channels));
    const int workers =
        workspace.workers(image_workers(threads, s.in.batch), OperandReader::bytes(s.in) + sums);
    for (int w = 0; w < workers; ++w) {
      in_.emplace_back(s.in, workspace);
      float* tile = workspace.take<float>(3 * padded(s.in.channels));
      tile_.push_back(tile);
    }
  }

  void run() {
    const int workers = static_cast<int>(in_.size());
    threads_.run(workers, [&](int w) {
      in_[w].renew();
      const Share images = share_of(s_.in.batch, w, workers);
      for (int64_t image = images.first; image < images.last; ++image) sum(w, image);
    });
    threads_.run_library([&] { excite(); });
  }

 private:
  void sum(int w, int64_t image) {
    const int64_t channels = s_.in.channels, pixels = int64_t{s_.in.height} * s_.in.width;
    float* const tile[3] = {tile_[w], tile_[w] + padded(channels), tile_[w] + 2 * padded(channels)};
    float* const totals[3] = {s_.gate.pooled, s_.gate.slope, s_.gate.slope_xhat};
    const float factors[3] = {1 / static_cast<float>(pixels), 1, 1};
    for (float* total : totals) std::fill_n(total + image * channels, channels, 0.f);
    in_[w].for_pieces(
        image * pixels, (image + 1) * pixels, [&](const OperandRows& rows, int64_t count, int64_t) {
          std::fill_n(tile[0], 3 * padded(channels), 0.f);
          row_kernels().squeeze(tile, rows, count);
          for (int s = 0; s < 3; ++s)
            row_kernels().add_scaled(totals[s] + image * channels, tile[s], factors[s], channels);
        });
  }

  void excite() {
    const int64_t batch = s_.in.batch, channels = s_.in.channels, squeezed = s_.squeezed;
    const GateView<float>& g = s_.gate;
    multiply(false, true, batch, squeezed, channels, g.pooled, channels, s_.reduce, channels, 0,
             g.hidden, squeezed);
    for (int64_t i = 0; i < batch * squeezed; ++i) {
      const Activated<float> a =
          activate(Activation::silu, g.hidden[i] + s_.reduce_bias[i % squeezed]);
      g.hidden[i] = a.h;
      g.dhidden[i] = a.slope;
    }
    multiply(false, true, batch, channels, squeezed, g.hidden, squeezed, s_.expand, squeezed, 0,
             g.gate, channels);
    for (int64_t i = 0; i < batch * channels; ++i)
      g.gate[i] = sigmoid(g.gate[i] + s_.expand_bias[i % channels]);
  }

  const Threads& threads_;
  Squeeze s_;
  std::vector<OperandReader> in_;
  std::vector<float*> tile_;
};

// From the sums that the gated reader left; see squeeze_excite_backward of kernels/kernels.h.
class SqueezeBackward {
 public:
  SqueezeBackward(const Threads& threads, const Program& program, const std::string& name,
                  const Squeeze& s)
      : threads_(threads), s_(s) {
    Workspace workspace(program, name);
    d2_ = workspace.take<float>(int64_t{s.in.batch} * s.in.channels);
    d1_ = workspace.take<float>(int64_t{s.in.batch} * s.squeezed);
    sum_t_ = workspace.take<double>(s.in.channels);
    sum_t_xhat_ = workspace.take<double>(s.in.channels);
  }

  void run() {
    threads_.run_library([&] { excite(); });
  }

 private:
  void excite() {
    const int64_t batch = s_.in.batch, channels = s_.in.channels, squeezed = s_.squeezed;
    const GateView<float>& g = s_.gate;
    for (int64_t i = 0; i < batch * channels; ++i) d2_[i] = g.dz_h[i] * g.gate[i] * (1 - g.gate[i]);
    add_rows(s_.dexpand_bias, d2_, channels);
    multiply(true, false, channels, squeezed, batch, d2_, channels, g.hidden, squeezed, 1,
             s_.dexpand, squeezed);
    multiply(false, false, batch, squeezed, channels, d2_, channels, s_.expand, squeezed, 0, d1_,
             squeezed);
    for (int64_t i = 0; i < batch * squeezed; ++i) d1_[i] *= g.dhidden[i];
    add_rows(s_.dreduce_bias, d1_, squeezed);
    multiply(true, false, squeezed, channels, batch, d1_, squeezed, g.pooled, channels, 1,
             s_.dreduce, channels);
    multiply(false, false, batch, channels, squeezed, d1_, squeezed, s_.reduce, channels, 0, g.q,
             channels);
    std::fill_n(sum_t_, channels, 0.);
    std::fill_n(sum_t_xhat_, channels, 0.);
    const float per_pixel =
        1 / (static_cast<float>(s_.in.height) * static_cast<float>(s_.in.width));
    for (int64_t n = 0, i = 0; n < batch; ++n)
      for (int64_t c = 0; c < channels; ++c, ++i) {
        g.q[i] *= per_pixel;
        sum_t_[c] += g.gate[i] * g.dz_slope[i] + g.q[i] * g.slope[i];
        sum_t_xhat_[c] += g.gate[i] * g.dz_slope_xhat[i] + g.q[i] * g.slope_xhat[i];
      }
    add_sums(s_.sums, s_.in, sum_t_, sum_t_xhat_);
  }

  // to (width,) += the rows of (N, width).
  void add_rows(float* to, const float* rows, int64_t width) const {
    for (int n = 0; n < s_.in.batch; ++n) row_kernels().add_scaled(to, rows + n * width, 1, width);
  }

  const Threads& threads_;
  Squeeze s_;
  float *d2_, *d1_;  // (N, C), (N, S): gradients before the sigmoid, before the SiLU
  double *sum_t_, *sum_t_xhat_;
};

}  // namespace

StepExec prepare(const Threads& threads, const Program& program, int,
                 const SqueezeExcite& squeeze) {
  Squeeze s{.in = program.operand<float>(squeeze.in),
            .gate = program.gate<float>(squeeze.gate),
            .squeezed = program.graph.gates[squeeze.gate].squeezed,
            .reduce = program.master<float>(squeeze.reduce_weight),
            .reduce_bias = program.master<float>(squeeze.reduce_bias),
            .expand = program.master<float>(squeeze.expand_weight),
            .expand_bias = program.master<float>(squeeze.expand_bias)};
  StepExec exec;
  exec.forward = [f = std::make_shared<SqueezeForward>(threads, program, squeeze.name, s)] {
    f->run();
  };
  if (!program.training()) return exec;
  s.sums = program.sums<float>(squeeze.in);
  s.dreduce = program.dparameter<float>(squeeze.reduce_weight);
  s.dreduce_bias = program.dparameter<float>(squeeze.reduce_bias);
  s.dexpand = program.dparameter<float>(squeeze.expand_weight);
  s.dexpand_bias = program.dparameter<float>(squeeze.expand_bias);
  exec.backward = [b = std::make_shared<SqueezeBackward>(threads, program, squeeze.name, s)] {
    b->run();
  };
  return exec;
}

// ---------------------------------------------------------------- pooling

namespace {

struct Pooling {
  OperandView<float> in;
  SliceView<float> out;
  GradientView<float> dy;
  GradientSink<float> sink;
  Window window;
  bool maximal;

  int64_t in_floats() const { return int64_t{in.height} * in.width * in.channels; }
  int64_t out_floats() const { return int64_t{out.height} * out.width * out.channels; }

  // Calls body(output offset, input offset) for every tap of an image, in scan order for each output.
  template <class Body>
  void for_taps(const Body& body) const {
    for (int oh = 0; oh < out.height; ++oh)
      for (int ow = 0; ow < out.width; ++ow) {
        const int top = oh * window.stride - window.padding,
                  left = ow * window.stride - window.padding;
        for (int h = std::max(top, 0); h < std::min(top + window.kernel_h, in.height); ++h)
          for (int w = std::max(left, 0); w < std::min(left + window.kernel_w, in.width); ++w)
            body((int64_t{oh} * out.width + ow) * out.channels,
                 (int64_t{h} * in.width + w) * in.channels);
      }
  }

  // y of one image from its f.
  void forward(float* y, const float* f) const {
    const float weight =
        1 / (static_cast<float>(window.kernel_h) * static_cast<float>(window.kernel_w));
    std::fill_n(y, out_floats(), maximal ? -std::numeric_limits<float>::infinity() : 0.f);
    for_taps([&](int64_t to, int64_t from) {
      if (maximal)
        row_kernels().maximum(y + to, f + from, in.channels);
      else
        row_kernels().add_scaled(y + to, f + from, weight, in.channels);
    });
  }

  // df of one image; dy is used up. The maximum is found again: the first in scan order.
  void backward(float* df, float* dy, const float* f, const float* y) const {
    const float weight =
        1 / (static_cast<float>(window.kernel_h) * static_cast<float>(window.kernel_w));
    std::fill_n(df, in_floats(), 0.f);
    for_taps([&](int64_t from, int64_t to) {
      if (maximal)
        row_kernels().route_maximum(df + to, dy + from, f + to, y + from, in.channels);
      else
        row_kernels().add_scaled(df + to, dy + from, weight, in.channels);
    });
  }
};

class PoolForward {
 public:
  PoolForward(const Threads& threads, const Program& program, const std::string& name,
              const Pooling& p)
      : threads_(threads), p_(p) {
    Workspace workspace(program, name);
    const int workers = workspace.workers(image_workers(threads, p.in.batch),
                                          OperandReader::bytes(p.in) + OutputWriter::bytes(p.out) +
                                              block_bytes<float>(p.in_floats()) +
                                              block_bytes<float>(p.out_floats()));
    for (int w = 0; w < workers; ++w) {
      in_.emplace_back(p.in, workspace);
      out_.emplace_back(p.out, nullptr, workspace);
      f_.push_back(workspace.take<float>(p.in_floats()));
      y_.push_back(workspace.take<float>(p.out_floats()));
    }
  }

  void run() {
    const int workers = static_cast<int>(in_.size());
    threads_.run(workers, [&](int w) {
      in_[w].renew();
      out_[w].renew();
      const Share images = share_of(p_.in.batch, w, workers);
      for (int64_t image = images.first; image < images.last; ++image) {
        const Share in = pixels_of({image, image + 1}, int64_t{p_.in.height} * p_.in.width);
        const Share out = pixels_of({image, image + 1}, int64_t{p_.out.height} * p_.out.width);
        in_[w].load(f_[w], p_.in.channels, in.first, in.last);
        p_.forward(y_[w], f_[w]);
        out_[w].store(y_[w], p_.out.channels, nullptr, 0, out.first, out.last);
      }
    });
    OutputWriter::merge(out_);
  }

 private:
  const Threads& threads_;
  Pooling p_;
  std::vector<OperandReader> in_;
  std::vector<OutputWriter> out_;
  std::vector<float*> f_, y_;  // of one image
};

class PoolBackward {
 public:
  PoolBackward(const Threads& threads, const Program& program, const std::string& name,
               const Pooling& p)
      : threads_(threads), p_(p) {
    Workspace workspace(program, name);
    const int workers = workspace.workers(
        image_workers(threads, p.in.batch),
        GradientReader::bytes(p.dy) + GradientWriter::bytes(p.sink, p.in) +
            2 * block_bytes<float>(p.in_floats()) + 2 * block_bytes<float>(p.out_floats()));
    for (int w = 0; w < workers; ++w) {
      dy_.emplace_back(p.dy, workspace);
      writer_.emplace_back(p.sink, p.in, workspace);
      image_.push_back({.f = workspace.take<float>(p.in_floats()),
                        .df = workspace.take<float>(p.in_floats()),
                        .y = workspace.take<float>(p.out_floats()),
                        .dy = workspace.take<float>(p.out_floats())});
    }
  }

  void run() {
    if (!p_.sink.grad) return;
    const int workers = static_cast<int>(dy_.size());
    threads_.run(workers, [&](int w) {
      dy_[w].renew();
      writer_[w].renew();
      const Share images = share_of(p_.in.batch, w, workers);
      for (int64_t image = images.first; image < images.last; ++image) work(w, image);
    });
    GradientWriter::merge(writer_);
  }

 private:
  struct Image {
    float *f, *df, *y, *dy;
  };

  void work(int w, int64_t image) {
    const Image& m = image_[w];
    const Share in = pixels_of({image, image + 1}, int64_t{p_.in.height} * p_.in.width);
    const Share out = pixels_of({image, image + 1}, int64_t{p_.out.height} * p_.out.width);
    dy_[w].load(m.dy, p_.out.channels, out.first, out.last);
    if (p_.maximal) {
      writer_[w].operand().load(m.f, p_.in.channels, in.first, in.last);
      p_.forward(m.y, m.f);
    }
    p_.backward(m.df, m.dy, m.f, m.y);
    writer_[w].store(m.df, p_.in.channels, nullptr, 0, in.first, in.last);
  }

  const Threads& threads_;
  Pooling p_;
  std::vector<GradientReader> dy_;
  std::vector<GradientWriter> writer_;
  std::vector<Image> image_;
};

}  // namespace

StepExec prepare(const Threads& threads, const Program& program, int index, const Pool& pool) {
  Pooling p{.in = program.operand<float>(pool.in),
            .out = program.output<float>(pool.out),
            .window = pool.window,
            .maximal = pool.maximal};
  StepExec exec;
  exec.forward = [f = std::make_shared<PoolForward>(threads, program, pool.name, p)] { f->run(); };
  if (!program.training()) return exec;
  p.dy = program.gradient<float>(pool.out);
  p.sink = program.sink<float>(index, 0, pool.in);
  exec.backward = [b = std::make_shared<PoolBackward>(threads, program, pool.name, p)] {
    b->run();
  };
  return exec;
}

// ---------------------------------------------------------------- sums

namespace {

class AddForward {
 public:
  AddForward(const Threads& threads, const Program& program, const std::string& name,
             const OperandView<float>& a, const OperandView<float>& b, const SliceView<float>& out)
      : threads_(threads), out_view_(out) {
    Workspace workspace(program, name);
    const size_t tile = block_bytes<float>(kTilePixels * out.channels);
    const int workers =
        workspace.workers(threads.count(), OperandReader::bytes(a) + OperandReader::bytes(b) +
                                               OutputWriter::bytes(out) + 2 * tile);
    for (int w = 0; w < workers; ++w) {
      a_.emplace_back(a, workspace);
      b_.emplace_back(b, workspace);
      out_.emplace_back(out, nullptr, workspace);
      tile_a_.push_back(workspace.take<float>(kTilePixels * out.channels));
      tile_b_.push_back(workspace.take<float>(kTilePixels * out.channels));
    }
  }

  void run() {
    const int workers = static_cast<int>(out_.size());
    threads_.run(workers, [&](int w) { work(w, share_of(out_view_.pixels(), w, workers)); });
    OutputWriter::merge(out_);
  }

 private:
  struct Source {
    const float* at;
    int64_t pitch;
  };

  void work(int w, Share share) {
    a_[w].renew();
    b_[w].renew();
    out_[w].renew();
    for (int64_t first = share.first; first < share.last; first += kTilePixels) {
      const int64_t last = std::min(first + kTilePixels, share.last);
      const Source a = load(a_[w], tile_a_[w], first, last),
                   b = load(b_[w], tile_b_[w], first, last);
      out_[w].store(a.at, a.pitch, b.at, b.pitch, first, last);
    }
  }

  // A plain operand is read where it lies.
  static Source load(OperandReader& in, float* tile, int64_t first, int64_t last) {
    const OperandView<float>& view = in.view();
    if (view.plain()) return {view.x + first * view.pitch, view.pitch};
    in.load(tile, view.channels, first, last);
    return {tile, view.channels};
  }

  const Threads& threads_;
  SliceView<float> out_view_;
  std::vector<OperandReader> a_, b_;
  std::vector<OutputWriter> out_;
  std::vector<float*> tile_a_, tile_b_;
};

class AddBackward {
 public:
  AddBackward(const Threads& threads, const Program& program, const std::string& name,
              const GradientView<float>& dy, const OperandView<float>& a,
              const GradientSink<float>& sink_a, const OperandView<float>& b,
              const GradientSink<float>& sink_b)
      : threads_(threads), dy_view_(dy) {
    Workspace workspace(program, name);
    whole_images_ = sink_a.gated() || sink_b.gated();
    const int most = whole_images_ ? image_workers(threads, dy.batch) : threads.count();
    const int workers = workspace.workers(
        most, GradientReader::bytes(dy) + GradientWriter::bytes(sink_a, a) +
                  GradientWriter::bytes(sink_b, b) + block_bytes<float>(kTilePixels * dy.channels));
    for (int w = 0; w < workers; ++w) {
      dy_.emplace_back(dy, workspace);
      a_.emplace_back(sink_a, a, workspace);
      b_.emplace_back(sink_b, b, workspace);
      tile_.push_back(workspace.take<float>(kTilePixels * dy.channels));
    }
  }

  void run() {
    if (!a_[0].wanted() && !b_[0].wanted()) return;
    const int workers = static_cast<int>(dy_.size());
    const int64_t unit = whole_images_ ? int64_t{dy_view_.height} * dy_view_.width : 1;
    threads_.run(workers, [&](int w) {
      work(w, pixels_of(share_of(dy_view_.pixels() / unit, w, workers), unit));
    });
    GradientWriter::merge(a_);
    GradientWriter::merge(b_);
  }

 private:
  void work(int w, Share share) {
    dy_[w].renew();
    a_[w].renew();
    b_[w].renew();
    for (int64_t first = share.first; first < share.last; first += kTilePixels) {
      const int64_t last = std::min(first + kTilePixels, share.last);
      const float* dy = dy_view_.grad + first * dy_view_.pitch;
      int64_t pitch = dy_view_.pitch;
      if (!dy_[w].direct()) {
        dy_[w].load(tile_[w], dy_view_.channels, first, last);
        dy = tile_[w];
        pitch = dy_view_.channels;
      }
      for (GradientWriter* writer : {&a_[w], &b_[w]})
        if (writer->wanted()) writer->store(dy, pitch, nullptr, 0, first, last);
    }
  }

  const Threads& threads_;
  GradientView<float> dy_view_;
  bool whole_images_ = false;
  std::vector<GradientReader> dy_;
  std::vector<GradientWriter> a_, b_;
  std::vector<float*> tile_;
};

}  // namespace

StepExec prepare(const Threads& threads, const Program& program, int index, const Add& add) {
  const auto a = program.operand<float>(add.a), b = program.operand<float>(add.b);
  StepExec exec;
  exec.forward = [f = std::make_shared<AddForward>(threads, program, add.name, a, b,
                                                   program.output<float>(add.out))] { f->run(); };
  if (!program.training()) return exec;
  exec.backward = [f = std::make_shared<AddBackward>(
                       threads, program, add.name, program.gradient<float>(add.out), a,
                       program.sink<float>(index, 0, add.a), b,
                       program.sink<float>(index, 1, add.b))] { f->run(); };
  return exec;
}

// ---------------------------------------------------------------- loss

namespace {

// Cross entropy of one image; dlogits null: not wanted.
void cross_entropy(StepResult& result, float* dlogits, const float* logits, int classes,
                   const TargetRow& target, double divisor, double scale) {
  const int label = target.label;
  const double top = *std::max_element(logits, logits + classes);
  double sum = 0;
  int rank = 0;  // of the label; of equal logits the lower index counts as larger
  for (int c = 0; c < classes; ++c) {
    sum += std::exp(logits[c] - top);
    rank += logits[c] > logits[label] || (logits[c] == logits[label] && c < label);
  }
  double total = 0;
  for (int c = 0; c < classes; ++c) {
    const double q = target.at(c);
    if (q == 0) continue;
    total += q;
    result.loss -= q * (logits[c] - top - std::log(sum)) / divisor;
  }
  result.correct1 += rank < 1;
  result.correct5 += rank < 5;
  if (!dlogits) return;
  for (int c = 0; c < classes; ++c)
    dlogits[c] = static_cast<float>((total * std::exp(logits[c] - top) / sum - target.at(c)) *
                                    scale / divisor);
}

}  // namespace

StepExec prepare(const Threads&, const Program& program, int index, const Loss& loss) {
  const auto logits = program.operand<float>(loss.in);
  const auto sink =
      program.training() ? program.sink<float>(index, 0, loss.in) : GradientSink<float>{};
  StepExec exec;
  exec.forward = [=, m = program.arenas, targets = program.targets()] {
    StepResult& result = m.results[m.params->result];
    result.loss = 0;
    result.correct1 = result.correct5 = 0;
    for (int n = 0; n < logits.batch; ++n)
      cross_entropy(result, sink.grad ? sink.grad + int64_t{n} * sink.pitch : nullptr,
                    logits.x + int64_t{n} * logits.pitch, logits.channels, targets.row(n),
                    m.params->divisor, m.scale->scale);
  };
  exec.backward = [] {};  // the forward wrote the gradient
  return exec;
}

}  // namespace engine::cpu

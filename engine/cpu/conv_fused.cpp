// Depthwise convolutions, fused: each worker walks down its images with a ring of loaded rows, so
// that x, y and their gradients are touched once. oneDNN's depthwise, with sweeps around it, moves
// several times the bytes.
#include <algorithm>

#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"
#include "engine/error.h"

namespace engine::cpu {

namespace {

constexpr int kMostTaps = 16;  // the most rows of a kernel

struct Shape {
  int kernel, stride, padding;
  int64_t pixel;  // floats of a pixel in a ring: channels, padded
  int taps() const { return kernel * kernel; }
};

Shape shape_of(const ConvViews& c) {
  return {c.window.kernel_h, c.window.stride, c.window.padding, padded(c.in.channels)};
}

// Copies one tap of all channels, (C, K, K) → (C,).
void take_tap(float* to, const float* weight, int channels, const Shape& s, int i, int k) {
  for (int c = 0; c < channels; ++c) to[c] = weight[int64_t{c} * s.taps() + i * s.kernel + k];
}

// The last `rows` rows of an image, each with `margin` pixels of zeros at both ends.
class Ring {
 public:
  Ring(int rows, int width, int margin, int64_t pixel, Workspace& workspace)
      : rows_(rows),
        margin_(margin),
        pixel_(pixel),
        row_floats_((width + 2 * margin) * pixel),
        base_(workspace.take<float>(rows * row_floats_)) {}

  void renew() { std::fill_n(base_, rows_ * row_floats_, 0.f); }
  // The pixel `column` of image row `row`; column −margin is the first zero.
  float* at(int row, int column) {
    return base_ + (row % rows_) * row_floats_ + (column + margin_) * pixel_;
  }

 private:
  int rows_, margin_;
  int64_t pixel_, row_floats_;
  float* base_;
};

// ---------------------------------------------------------------- forward

class DepthwiseForward {
 public:
  DepthwiseForward(const Threads& threads, Workspace workspace, const ConvViews& c)
      : threads_(threads),
        c_(c),
        s_(shape_of(c)),
        weight_(workspace.take<float>(s_.taps() * s_.pixel)) {
    const int margin = s_.padding + s_.stride;  // what the last window may overhang
    workers_ = workspace.workers(threads.image_workers(c.in.batch), [&](Workspace& own, int) {
      return Worker{
          {c.in, own}, {c.out, c.bias, own}, {s_.kernel, c.in.width, margin, s_.pixel, own}};
    });
  }

  void run() {
    for (int t = 0; t < s_.taps(); ++t)
      take_tap(weight_ + t * s_.pixel, c_.weight, c_.in.channels, s_, t / s_.kernel, t % s_.kernel);
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(c_.in.batch, w, workers)); });
    OutputWriter::merge(workers_, &Worker::out);
  }

 private:
  struct Worker {
    OperandReader in;
    OutputWriter out;
    Ring ring;  // of the operand
  };

  void work(Worker& worker, Share images) const {
    worker.in.renew();
    worker.out.renew();
    worker.ring.renew();
    for (int64_t image = images.first; image < images.last; ++image) work_image(worker, image);
  }

  void work_image(Worker& worker, int64_t image) const {
    int loaded = 0;  // rows of the operand
    for (int row = 0; row < c_.out.height; ++row) {
      const int top = row * s_.stride - s_.padding,
                bottom = std::min(top + s_.kernel, c_.in.height);
      for (; loaded < bottom; ++loaded) {
        const int64_t pixel = (image * c_.in.height + loaded) * c_.in.width;
        worker.in.load(worker.ring.at(loaded, 0), s_.pixel, pixel, pixel + c_.in.width);
      }
      const float *rows[kMostTaps], *taps[kMostTaps];
      int count = 0;
      for (int i = std::max(0, -top); i < bottom - top; ++i, ++count) {
        rows[count] = worker.ring.at(top + i, -s_.padding);
        taps[count] = weight_ + i * s_.kernel * s_.pixel;
      }
      const int64_t pixel = (image * c_.out.height + row) * c_.out.width;
      row_kernels().correlate({.out = c_.out.y + pixel * c_.out.pitch,
                               .out_step = c_.out.pitch,
                               .width = c_.out.width,
                               .channels = c_.out.channels,
                               .rows = rows,
                               .taps = taps,
                               .count = count,
                               .kernel = s_.kernel,
                               .stride = s_.stride});
      worker.out.finish(pixel, pixel + c_.out.width);
    }
  }

  const Threads& threads_;
  ConvViews c_;
  Shape s_;
  float* weight_;  // (K, K, pixel)
  std::vector<Worker> workers_;
};

// ---------------------------------------------------------------- backward

// Goes down the rows of the operand: its gradient comes from the rows of dy above and below, then
// the epilogue stores it and leaves f, too, and then this row of f adds to dweight.
class DepthwiseBackward {
 public:
  DepthwiseBackward(const Threads& threads, Workspace workspace, const ConvViews& c)
      : threads_(threads),
        c_(c),
        s_(shape_of(c)),
        phases_(phases_of(s_)),
        weight_(workspace.take<float>(s_.taps() * s_.pixel)) {
    const int margin = s_.kernel + s_.stride;  // more than a window may overhang
    workers_ = workspace.workers(threads.image_workers(c.in.batch), [&](Workspace& own, int) {
      return Worker{{c.dy, own},
                    {c.sink, c.in, own},
                    {c.out.channels, own},
                    {s_.kernel, c.out.width, margin, s_.pixel, own},
                    {1, c.in.width, margin, s_.pixel, own},
                    own.take<float>(c.in.width * s_.pixel),
                    own.take<float>(s_.taps() * s_.pixel),
                    own.take<float>(s_.taps() * s_.pixel)};
    });
  }

  void run() {
    for (int i = 0; i < s_.kernel; ++i)
      for (const Phase& phase : phases_)
        for (int n = 0; n < phase.taps; ++n)
          take_tap(weight_ + (i * s_.kernel + phase.at + n) * s_.pixel, c_.weight, c_.in.channels,
                   s_, i, phase.first + s_.stride * (phase.taps - 1 - n));
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(c_.in.batch, w, workers)); });
    GradientWriter::merge(workers_, &Worker::writer);
    if (c_.dbias) ColumnSums::merge(c_.dbias, workers_, &Worker::bias);
    merge_taps();
  }

 private:
  struct Worker {
    GradientReader gradient;
    GradientWriter writer;
    ColumnSums bias;
    Ring dy, f;                // f is one row
    float* df;                 // (W, pixel)
    float *image_taps, *taps;  // (K, K, pixel): the sums of an image, of this worker
  };

  // The columns offset, offset + stride, … of the operand meet the taps first, first + stride, … of
  // each kernel row, in reverse: df[stride·j + offset] = Σ_n dy[j + column + n]·taps[at + n].
  struct Phase {
    int offset, first, taps, column, at;
  };

  static std::vector<Phase> phases_of(const Shape& s) {
    std::vector<Phase> phases;
    int at = 0;
    for (int offset = 0; offset < s.stride; ++offset) {
      const int first = (offset + s.padding) % s.stride;
      const int taps = std::max(0, (s.kernel - first + s.stride - 1) / s.stride);
      phases.push_back(
          {offset, first, taps, (offset + s.padding - first) / s.stride - (taps - 1), at});
      at += taps;
    }
    return phases;
  }

  void work(Worker& worker, Share images) const {
    worker.gradient.renew();
    worker.writer.renew();
    worker.bias.renew();
    worker.dy.renew();
    worker.f.renew();
    std::fill_n(worker.taps, s_.taps() * s_.pixel, 0.f);
    for (int64_t image = images.first; image < images.last; ++image) {
      std::fill_n(worker.image_taps, s_.taps() * s_.pixel, 0.f);
      int loaded = 0;  // rows of dy
      for (int row = 0; row < c_.in.height; ++row) {
        for (; loaded < std::min((row + s_.padding) / s_.stride + 1, c_.out.height); ++loaded)
          load_gradient(worker, image, loaded);
        work_row(worker, image, row);
      }
      row_kernels().add_scaled(worker.taps, worker.image_taps, 1, s_.taps() * s_.pixel);
    }
  }

  void load_gradient(Worker& worker, int64_t image, int row) const {
    const int64_t pixel = (image * c_.out.height + row) * c_.out.width;
    float* dy = worker.dy.at(row, 0);
    worker.gradient.load(dy, s_.pixel, pixel, pixel + c_.out.width);
    if (c_.dbias) worker.bias.add(dy, s_.pixel, c_.out.width);
  }

  void work_row(Worker& worker, int64_t image, int row) const {
    // The rows of the kernel, and of dy, that meet this row.
    int taps[kMostTaps], dy_rows[kMostTaps], count = 0;
    for (int i = (row + s_.padding) % s_.stride; i < s_.kernel; i += s_.stride) {
      const int dy_row = (row + s_.padding - i) / s_.stride;
      if (row + s_.padding < i || dy_row >= c_.out.height) continue;
      taps[count] = i;
      dy_rows[count++] = dy_row;
    }
    const int64_t pixel = (image * c_.in.height + row) * c_.in.width;
    float* f = worker.f.at(0, 0);
    if (worker.writer.wanted()) {
      for (const Phase& phase : phases_) correlate(worker, phase, taps, dy_rows, count);
      worker.writer.store(worker.df, s_.pixel, f, s_.pixel, pixel, pixel + c_.in.width);
    } else {
      worker.writer.operand().load(f, s_.pixel, pixel, pixel + c_.in.width);
    }
    for (int i = 0; i < count; ++i)
      row_kernels().correlate_taps(worker.image_taps + taps[i] * s_.kernel * s_.pixel,
                                   worker.f.at(0, -s_.padding), worker.dy.at(dy_rows[i], 0),
                                   c_.out.width, c_.in.channels, s_.kernel, s_.stride);
  }

  void correlate(Worker& worker, const Phase& phase, const int* taps, const int* dy_rows,
                 int count) const {
    const float *in[kMostTaps], *weights[kMostTaps];
    for (int i = 0; i < count; ++i) {
      in[i] = worker.dy.at(dy_rows[i], phase.column);
      weights[i] = weight_ + (taps[i] * s_.kernel + phase.at) * s_.pixel;
    }
    row_kernels().correlate({.out = worker.df + phase.offset * s_.pixel,
                             .out_step = s_.stride * s_.pixel,
                             .width = (c_.in.width - phase.offset + s_.stride - 1) / s_.stride,
                             .channels = c_.in.channels,
                             .rows = in,
                             .taps = weights,
                             .count = count,
                             .kernel = phase.taps,
                             .stride = 1});
  }

  void merge_taps() {
    float* taps = workers_[0].taps;
    for (size_t w = 1; w < workers_.size(); ++w)
      row_kernels().add_scaled(taps, workers_[w].taps, 1, s_.taps() * s_.pixel);
    for (int c = 0; c < c_.in.channels; ++c)
      for (int t = 0; t < s_.taps(); ++t) c_.dweight[c * s_.taps() + t] = taps[t * s_.pixel + c];
  }

  const Threads& threads_;
  ConvViews c_;
  Shape s_;
  std::vector<Phase> phases_;
  float* weight_;  // (K, K, pixel), the taps of a kernel row by phase
  std::vector<Worker> workers_;
};

}  // namespace

ConvWork prepare_fused(const Threads& threads, const Workspace& workspace, bool training,
                       const ConvViews& c) {
  require(c.window.kernel_h == c.window.kernel_w && c.window.kernel_h <= kMostTaps,
          Failure::internal, "{}: a depthwise kernel of {}x{}; square ones up to {} are known",
          workspace.step(), c.window.kernel_h, c.window.kernel_w, kMostTaps);
  ConvWork work{runner<DepthwiseForward>(threads, workspace, c), {}};
  if (training) work.backward = runner<DepthwiseBackward>(threads, workspace, c);
  return work;
}

}  // namespace engine::cpu

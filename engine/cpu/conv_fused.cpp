// Depthwise convolutions, fused: each worker walks down its images with a ring of loaded rows, so that x, y and their
// gradients are touched once. (oneDNN's depthwise, with sweeps around it, moves several times the bytes.)
#include <algorithm>
#include <memory>

#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"
#include "engine/error.h"

namespace engine::cpu {

namespace {

constexpr int kMostTaps = 16;  // rows of a kernel

struct Shape {
  int kernel, stride, padding;
  int64_t pixel;  // floats of a pixel in a ring: channels, padded
  int taps() const { return kernel * kernel; }
};

Shape shape_of(const ConvViews& c) {
  return {c.window.kernel_h, c.window.stride, c.window.padding, padded(c.in.channels)};
}

// One tap of all channels, (C, K, K) → (C,).
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
  static size_t bytes(int rows, int width, int margin, int64_t pixel) {
    return block_bytes<float>(rows * (width + 2 * margin) * pixel);
  }

  void renew() { std::fill_n(base_, rows_ * row_floats_, 0.f); }
  // Pixel `column` of image row `row`; column −margin is the first zero.
  float* at(int row, int column) {
    return base_ + (row % rows_) * row_floats_ + (column + margin_) * pixel_;
  }

 private:
  int rows_, margin_;
  int64_t pixel_, row_floats_;
  float* base_;
};

int most_workers(const Threads& threads, const ConvViews& c) {
  return std::min(threads.count(), c.in.batch);
}

// ---------------------------------------------------------------- forward

class DepthwiseForward {
 public:
  DepthwiseForward(const Threads& threads, const Program& program, const std::string& name,
                   const ConvViews& c)
      : threads_(threads), c_(c), s_(shape_of(c)) {
    Workspace workspace(program, name);
    weight_ = workspace.take<float>(s_.taps() * s_.pixel);
    const int margin = s_.padding + s_.stride;  // what the last window may overhang
    const int workers = workspace.workers(most_workers(threads, c),
                                          OperandReader::bytes(c.in) + OutputWriter::bytes(c.out) +
                                              Ring::bytes(s_.kernel, c.in.width, margin, s_.pixel));
    for (int w = 0; w < workers; ++w) {
      in_.emplace_back(c.in, workspace);
      out_.emplace_back(c.out, c.bias, workspace);
      ring_.emplace_back(s_.kernel, c.in.width, margin, s_.pixel, workspace);
    }
  }

  void run() {
    for (int t = 0; t < s_.taps(); ++t)
      take_tap(weight_ + t * s_.pixel, c_.weight, c_.in.channels, s_, t / s_.kernel, t % s_.kernel);
    const int workers = static_cast<int>(in_.size());
    threads_.run(workers, [&](int w) {
      in_[w].renew();
      out_[w].renew();
      ring_[w].renew();
      const Share images = share_of(c_.in.batch, w, workers);
      for (int64_t image = images.first; image < images.last; ++image) work(w, image);
    });
    OutputWriter::merge(out_);
  }

 private:
  void work(int w, int64_t image) {
    int loaded = 0;  // rows of the operand
    for (int row = 0; row < c_.out.height; ++row) {
      const int top = row * s_.stride - s_.padding,
                bottom = std::min(top + s_.kernel, c_.in.height);
      for (; loaded < bottom; ++loaded) {
        const int64_t pixel = (image * c_.in.height + loaded) * c_.in.width;
        in_[w].load(ring_[w].at(loaded, 0), s_.pixel, pixel, pixel + c_.in.width);
      }
      const float *rows[kMostTaps], *taps[kMostTaps];
      int count = 0;
      for (int i = std::max(0, -top); i < bottom - top; ++i, ++count) {
        rows[count] = ring_[w].at(top + i, -s_.padding);
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
      out_[w].finish(pixel, pixel + c_.out.width);
    }
  }

  const Threads& threads_;
  ConvViews c_;
  Shape s_;
  float* weight_;
  std::vector<OperandReader> in_;
  std::vector<OutputWriter> out_;
  std::vector<Ring> ring_;
};

// ---------------------------------------------------------------- backward

// Row by row of the operand: its gradient from the rows of dy above and below, then the epilogue, which leaves f too,
// then what this row of f adds to dweight.
class DepthwiseBackward {
 public:
  DepthwiseBackward(const Threads& threads, const Program& program, const std::string& name,
                    const ConvViews& c)
      : threads_(threads), c_(c), s_(shape_of(c)), phases_(phases_of(s_)) {
    Workspace workspace(program, name);
    weight_ = workspace.take<float>(s_.taps() * s_.pixel);
    const int margin = s_.kernel + s_.stride;  // more than a window may overhang
    const size_t buffers = Ring::bytes(s_.kernel, c.out.width, margin, s_.pixel) +
                           Ring::bytes(1, c.in.width, margin, s_.pixel) +
                           block_bytes<float>(c.in.width * s_.pixel) +
                           2 * block_bytes<float>(s_.taps() * s_.pixel);
    const int workers =
        workspace.workers(most_workers(threads, c),
                          GradientReader::bytes(c.dy) + GradientWriter::bytes(c.sink, c.in) +
                              ColumnSums::bytes(c.out.channels) + buffers);
    for (int w = 0; w < workers; ++w) {
      dy_.emplace_back(c.dy, workspace);
      writer_.emplace_back(c.sink, c.in, workspace);
      bias_.emplace_back(c.out.channels, workspace);
      dy_ring_.emplace_back(s_.kernel, c.out.width, margin, s_.pixel, workspace);
      f_.emplace_back(1, c.in.width, margin, s_.pixel, workspace);
      df_.push_back(workspace.take<float>(c.in.width * s_.pixel));
      image_taps_.push_back(workspace.take<float>(s_.taps() * s_.pixel));
      taps_.push_back(workspace.take<float>(s_.taps() * s_.pixel));
    }
  }

  void run() {
    for (int i = 0; i < s_.kernel; ++i)
      for (const Phase& phase : phases_)
        for (int n = 0; n < phase.taps; ++n)
          take_tap(weight_ + (i * s_.kernel + phase.at + n) * s_.pixel, c_.weight, c_.in.channels,
                   s_, i, phase.first + s_.stride * (phase.taps - 1 - n));
    const int workers = static_cast<int>(dy_.size());
    threads_.run(workers, [&](int w) { work(w, share_of(c_.in.batch, w, workers)); });
    GradientWriter::merge(writer_);
    if (c_.dbias) ColumnSums::merge(c_.dbias, bias_);
    merge_taps();
  }

 private:
  // Columns offset, offset + stride, … of the operand meet the taps first, first + stride, … of each kernel row:
  // df[stride·j + offset] = Σ_n dy[j + column + n]·taps[at + n], the taps in reverse.
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

  void work(int w, Share images) {
    dy_[w].renew();
    writer_[w].renew();
    bias_[w].renew();
    dy_ring_[w].renew();
    f_[w].renew();
    std::fill_n(taps_[w], s_.taps() * s_.pixel, 0.f);
    for (int64_t image = images.first; image < images.last; ++image) {
      std::fill_n(image_taps_[w], s_.taps() * s_.pixel, 0.f);
      int loaded = 0;  // rows of dy
      for (int row = 0; row < c_.in.height; ++row) {
        for (; loaded < std::min((row + s_.padding) / s_.stride + 1, c_.out.height); ++loaded)
          load_gradient(w, image, loaded);
        work_row(w, image, row);
      }
      row_kernels().add_scaled(taps_[w], image_taps_[w], 1, s_.taps() * s_.pixel);
    }
  }

  void load_gradient(int w, int64_t image, int row) {
    const int64_t pixel = (image * c_.out.height + row) * c_.out.width;
    float* dy = dy_ring_[w].at(row, 0);
    dy_[w].load(dy, s_.pixel, pixel, pixel + c_.out.width);
    if (c_.dbias) bias_[w].add(dy, s_.pixel, c_.out.width);
  }

  void work_row(int w, int64_t image, int row) {
    int taps[kMostTaps], dy_rows[kMostTaps],
        count = 0;  // rows of the kernel, and of dy, that meet this row
    for (int i = (row + s_.padding) % s_.stride; i < s_.kernel; i += s_.stride) {
      const int dy_row = (row + s_.padding - i) / s_.stride;
      if (row + s_.padding < i || dy_row >= c_.out.height) continue;
      taps[count] = i;
      dy_rows[count++] = dy_row;
    }
    const int64_t pixel = (image * c_.in.height + row) * c_.in.width;
    float* f = f_[w].at(0, 0);
    if (writer_[w].wanted()) {
      for (const Phase& phase : phases_) correlate(w, phase, taps, dy_rows, count);
      writer_[w].store(df_[w], s_.pixel, f, s_.pixel, pixel, pixel + c_.in.width);
    } else {
      writer_[w].operand().load(f, s_.pixel, pixel, pixel + c_.in.width);
    }
    for (int i = 0; i < count; ++i)
      row_kernels().correlate_taps(image_taps_[w] + taps[i] * s_.kernel * s_.pixel,
                                   f_[w].at(0, -s_.padding), dy_ring_[w].at(dy_rows[i], 0),
                                   c_.out.width, c_.in.channels, s_.kernel, s_.stride);
  }

  void correlate(int w, const Phase& phase, const int* taps, const int* dy_rows, int count) {
    const float *in[kMostTaps], *weights[kMostTaps];
    for (int i = 0; i < count; ++i) {
      in[i] = dy_ring_[w].at(dy_rows[i], phase.column);
      weights[i] = weight_ + (taps[i] * s_.kernel + phase.at) * s_.pixel;
    }
    row_kernels().correlate({.out = df_[w] + phase.offset * s_.pixel,
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
    for (size_t w = 1; w < taps_.size(); ++w)
      row_kernels().add_scaled(taps_[0], taps_[w], 1, s_.taps() * s_.pixel);
    for (int c = 0; c < c_.in.channels; ++c)
      for (int t = 0; t < s_.taps(); ++t)
        c_.dweight[c * s_.taps() + t] = taps_[0][t * s_.pixel + c];
  }

  const Threads& threads_;
  ConvViews c_;
  Shape s_;
  std::vector<Phase> phases_;
  float* weight_;  // (K, K, pixel), the taps of a kernel row by phase
  std::vector<GradientReader> dy_;
  std::vector<GradientWriter> writer_;
  std::vector<ColumnSums> bias_;
  std::vector<Ring> dy_ring_, f_;
  std::vector<float*> df_, image_taps_,
      taps_;  // (W, pixel), (K, K, pixel) twice: sums of an image, of a worker
};

}  // namespace

ConvWork prepare_fused(const Threads& threads, const Program& program, const std::string& name,
                       const ConvViews& c) {
  require(c.window.kernel_h == c.window.kernel_w && c.window.kernel_h <= kMostTaps,
          Failure::internal, "{}: a depthwise kernel of {}x{}; square ones up to {} are known",
          name, c.window.kernel_h, c.window.kernel_w, kMostTaps);
  ConvWork exec;
  exec.forward = [f = std::make_shared<DepthwiseForward>(threads, program, name, c)] { f->run(); };
  if (program.training())
    exec.backward = [b = std::make_shared<DepthwiseBackward>(threads, program, name, c)] {
      b->run();
    };
  return exec;
}

}  // namespace engine::cpu

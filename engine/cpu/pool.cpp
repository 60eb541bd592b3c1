// Pooling, by maximum or average, image by image.
#include <algorithm>
#include <limits>
#include <memory>

#include "engine/cost.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

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
    const int workers = workspace.workers(threads.image_workers(p.in.batch),
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
        threads.image_workers(p.in.batch),
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
  const std::string shape = text_of(pool, p.in);
  StepExec exec;
  exec.forward =
      one_launch("pool_forward", shape, pool_cost(p.out, p.in),
                 [f = std::make_shared<PoolForward>(threads, program, pool.name, p)] { f->run(); });
  if (!program.training()) return exec;
  p.dy = program.gradient<float>(pool.out);
  p.sink = program.sink<float>(index, 0, pool.in);
  if (!p.sink.grad) return exec;
  exec.backward = one_launch(
      "pool_backward", shape, pool_backward_cost(p.sink, p.dy, p.in, p.maximal),
      [b = std::make_shared<PoolBackward>(threads, program, pool.name, p)] { b->run(); });
  return exec;
}

}  // namespace engine::cpu

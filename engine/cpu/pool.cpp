// Pooling, by maximum or average, one image at a time.
#include <algorithm>
#include <cmath>
#include <limits>

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
  Share in_pixels(int64_t image) const {
    return pixels_of({image, image + 1}, int64_t{in.height} * in.width);
  }
  Share out_pixels(int64_t image) const {
    return pixels_of({image, image + 1}, int64_t{out.height} * out.width);
  }

  // Calls body(output offset, input offset) for every tap of an image, in scan order for each
  // output.
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

  // Makes y of one image from its f.
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

  // Makes df of one image and uses dy up. The maximum is found again: the first in scan order, but
  // of NaN the last, as in PyTorch.
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
    if (!maximal) return;
    for (int64_t at = 0; at < out_floats(); ++at)
      if (std::isnan(y[at])) route_nan(df, dy[at], f, at);
  }

  // Gives the gradient of output `at` to the last NaN of its window.
  void route_nan(float* df, float dy, const float* f, int64_t at) const {
    const int channel = static_cast<int>(at % out.channels);
    const int pixel = static_cast<int>(at / out.channels);
    const int top = pixel / out.width * window.stride - window.padding;
    const int left = pixel % out.width * window.stride - window.padding;
    for (int h = std::min(top + window.kernel_h, in.height) - 1; h >= std::max(top, 0); --h)
      for (int w = std::min(left + window.kernel_w, in.width) - 1; w >= std::max(left, 0); --w) {
        const int64_t from = (int64_t{h} * in.width + w) * in.channels + channel;
        if (!std::isnan(f[from])) continue;
        df[from] += dy;
        return;
      }
  }
};

class PoolForward {
 public:
  PoolForward(const Threads& threads, Workspace workspace, const Pooling& p)
      : threads_(threads),
        p_(p),
        workers_(workspace.workers(threads.image_workers(p.in.batch), [&](Workspace& own, int) {
          return Worker{{p.in, own},
                        {p.out, nullptr, own},
                        own.take<float>(p.in_floats()),
                        own.take<float>(p.out_floats())};
        })) {}

  void run() {
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(p_.in.batch, w, workers)); });
    OutputWriter::merge(workers_, &Worker::out);
  }

 private:
  struct Worker {
    OperandReader in;
    OutputWriter out;
    float *f, *y;  // of one image
  };

  void work(Worker& worker, Share images) {
    worker.in.renew();
    worker.out.renew();
    for (int64_t image = images.first; image < images.last; ++image) {
      const Share in = p_.in_pixels(image), out = p_.out_pixels(image);
      worker.in.load(worker.f, p_.in.channels, in.first, in.last);
      p_.forward(worker.y, worker.f);
      worker.out.store(worker.y, p_.out.channels, nullptr, 0, out.first, out.last);
    }
  }

  const Threads& threads_;
  Pooling p_;
  std::vector<Worker> workers_;
};

class PoolBackward {
 public:
  PoolBackward(const Threads& threads, Workspace workspace, const Pooling& p)
      : threads_(threads),
        p_(p),
        workers_(workspace.workers(threads.image_workers(p.in.batch), [&](Workspace& own, int) {
          return Worker{{p.dy, own},
                        {p.sink, p.in, own},
                        own.take<float>(p.in_floats()),
                        own.take<float>(p.in_floats()),
                        own.take<float>(p.out_floats()),
                        own.take<float>(p.out_floats())};
        })) {}

  void run() {
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(p_.in.batch, w, workers)); });
    GradientWriter::merge(workers_, &Worker::writer);
  }

 private:
  struct Worker {
    GradientReader gradient;
    GradientWriter writer;
    float *f, *df, *y, *dy;  // of one image
  };

  void work(Worker& worker, Share images) {
    worker.gradient.renew();
    worker.writer.renew();
    for (int64_t image = images.first; image < images.last; ++image) {
      const Share in = p_.in_pixels(image), out = p_.out_pixels(image);
      worker.gradient.load(worker.dy, p_.out.channels, out.first, out.last);
      if (p_.maximal) {
        worker.writer.operand().load(worker.f, p_.in.channels, in.first, in.last);
        p_.forward(worker.y, worker.f);
      }
      p_.backward(worker.df, worker.dy, worker.f, worker.y);
      worker.writer.store(worker.df, p_.in.channels, nullptr, 0, in.first, in.last);
    }
  }

  const Threads& threads_;
  Pooling p_;
  std::vector<Worker> workers_;
};

}  // namespace

StepExec prepare(const Threads& threads, const Program& program, int index, const Pool& pool) {
  Pooling p{.in = program.operand<float>(pool.in),
            .out = program.output<float>(pool.out),
            .window = pool.window,
            .maximal = pool.maximal};
  const std::string shape = text_of(pool, p.in);
  StepExec exec;
  exec.forward = one_launch("pool_forward", shape, pool_cost(p.out, p.in),
                            runner<PoolForward>(threads, Workspace(program, pool.name), p));
  if (!program.training()) return exec;
  p.dy = program.gradient<float>(pool.out);
  p.sink = program.sink<float>(index, 0, pool.in);
  if (!p.sink.grad) return exec;
  exec.backward =
      one_launch("pool_backward", shape, pool_backward_cost(p.sink, p.dy, p.in, p.maximal),
                 runner<PoolBackward>(threads, Workspace(program, pool.name), p));
  return exec;
}

}  // namespace engine::cpu

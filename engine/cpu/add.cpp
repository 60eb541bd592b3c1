// The sum of two operands, and its gradient for each of them.
#include <algorithm>

#include "engine/cost.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

class AddForward {
 public:
  AddForward(const Threads& threads, Workspace workspace, const OperandView<float>& a,
             const OperandView<float>& b, const SliceView<float>& out, Activation act)
      : threads_(threads),
        pixels_(out.pixels()),
        workers_(workspace.workers(threads.count(), [&](Workspace& own, int) {
          const int64_t tile = kTilePixels * out.channels;
          return Worker{{a, own},
                        {b, own},
                        {out, nullptr, own, act},
                        own.take<float>(tile),
                        own.take<float>(tile)};
        })) {}

  void run() {
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(pixels_, w, workers)); });
    OutputWriter::merge(workers_, &Worker::out);
  }

 private:
  struct Worker {
    OperandReader a, b;
    OutputWriter out;
    float *tile_a, *tile_b;
  };

  struct Source {
    const float* at;
    int64_t pitch;
  };

  static void work(Worker& worker, Share share) {
    worker.a.renew();
    worker.b.renew();
    worker.out.renew();
    for (int64_t first = share.first; first < share.last; first += kTilePixels) {
      const int64_t last = std::min(first + kTilePixels, share.last);
      const Source a = load(worker.a, worker.tile_a, first, last),
                   b = load(worker.b, worker.tile_b, first, last);
      worker.out.store(a.at, a.pitch, b.at, b.pitch, first, last);
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
  int64_t pixels_;
  std::vector<Worker> workers_;
};

class AddBackward {
 public:
  AddBackward(const Threads& threads, Workspace workspace, const GradientView<float>& dy,
              const ActivatedGradient<float>& sum, const OperandView<float>& a,
              const GradientSink<float>& sink_a, const OperandView<float>& b,
              const GradientSink<float>& sink_b)
      : threads_(threads), dy_(dy), sum_(sum), whole_images_(sink_a.gated() || sink_b.gated()) {
    const int most = whole_images_ ? threads.image_workers(dy.batch) : threads.count();
    workers_ = workspace.workers(most, [&](Workspace& own, int) {
      return Worker{{dy, own},
                    {sink_a, a, own},
                    {sink_b, b, own},
                    own.take<float>(kTilePixels * dy.channels)};
    });
  }

  void run() {
    const int workers = static_cast<int>(workers_.size());
    const int64_t unit = whole_images_ ? int64_t{dy_.height} * dy_.width : 1;
    threads_.run(workers, [&](int w) {
      work(workers_[w], pixels_of(share_of(dy_.pixels() / unit, w, workers), unit));
    });
    GradientWriter::merge(workers_, &Worker::a);
    GradientWriter::merge(workers_, &Worker::b);
  }

 private:
  struct Worker {
    GradientReader gradient;
    GradientWriter a, b;
    float* tile;
  };

  void work(Worker& worker, Share share) const {
    worker.gradient.renew();
    worker.a.renew();
    worker.b.renew();
    for (int64_t first = share.first; first < share.last; first += kTilePixels) {
      const int64_t last = std::min(first + kTilePixels, share.last);
      const int64_t channels = dy_.channels;
      float* dy = sum_.dy + first * channels;
      if (!worker.gradient.direct()) {
        worker.gradient.load(worker.tile, channels, first, last);
        dy = worker.tile;
      }
      if (sum_.activated())
        row_kernels().multiply_slopes(dy, sum_.h + first * channels, (last - first) * channels,
                                      sum_.act);
      for (GradientWriter* writer : {&worker.a, &worker.b})
        if (writer->wanted()) writer->store(dy, channels, nullptr, 0, first, last);
    }
  }

  const Threads& threads_;
  GradientView<float> dy_;
  ActivatedGradient<float> sum_;
  bool whole_images_;
  std::vector<Worker> workers_;
};

}  // namespace

StepExec prepare(const Threads& threads, const Program& program, int index, const Add& add) {
  const auto a = program.operand<float>(add.a), b = program.operand<float>(add.b);
  const auto out = program.output<float>(add.out);
  const std::string shape = text_of(a) + " + " + text_of(b);
  StepExec exec;
  exec.forward =
      one_launch("add_forward", shape, {bytes_of(a) + bytes_of(b) + bytes_of(out), 0},
                 runner<AddForward>(threads, Workspace(program, add.name), a, b, out, add.act));
  if (!program.training()) return exec;
  const auto dy = program.gradient<float>(add.out);
  const auto sum = program.activated_gradient<float>(index, add);
  const auto sink_a = program.sink<float>(index, 0, add.a),
             sink_b = program.sink<float>(index, 1, add.b);
  if (!sink_a.wanted() && !sink_b.wanted() && !sum.activated()) return exec;
  exec.backward = one_launch(
      "add_backward", shape, add_backward_cost(dy, sum, sink_a, a, sink_b, b),
      runner<AddBackward>(threads, Workspace(program, add.name), dy, sum, a, sink_a, b, sink_b));
  return exec;
}

}  // namespace engine::cpu

// The sum of two operands, and its gradient for each of them.
#include <algorithm>
#include <memory>

#include "engine/cost.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

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
    const int most = whole_images_ ? threads.image_workers(dy.batch) : threads.count();
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
  const auto out = program.output<float>(add.out);
  const std::string shape = text_of(a) + " + " + text_of(b);
  StepExec exec;
  exec.forward = one_launch(
      "add_forward", shape, {bytes_of(a) + bytes_of(b) + bytes_of(out), 0},
      [f = std::make_shared<AddForward>(threads, program, add.name, a, b, out)] { f->run(); });
  if (!program.training()) return exec;
  const auto dy = program.gradient<float>(add.out);
  const auto sink_a = program.sink<float>(index, 0, add.a),
             sink_b = program.sink<float>(index, 1, add.b);
  if (!sink_a.grad && !sink_b.grad) return exec;
  exec.backward = one_launch("add_backward", shape, add_backward_cost(dy, sink_a, a, sink_b, b),
                             [f = std::make_shared<AddBackward>(threads, program, add.name, dy, a,
                                                                sink_a, b, sink_b)] { f->run(); });
  return exec;
}

}  // namespace engine::cpu

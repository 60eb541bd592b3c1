// Convolutions that are one matrix product: pointwise ones, and a linear layer, whose kernel is the
// image. Each worker takes tiles of rows small enough for its cache: it loads, multiplies and
// stores with statistics, so that nothing but operands, outputs and their gradients touches memory.
// The products read and write strided slices as they are.
#include <algorithm>

#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

// The rows of a tile: its operands should stay in a core's second-level cache, and a product should
// not be too thin.
int64_t tile_rows(int64_t floats_per_row, int64_t rows) {
  constexpr int64_t kCacheFloats = 96 << 10, kLeast = 128, kMost = 512;
  return std::min(rows,
                  std::clamp<int64_t>(kCacheFloats / floats_per_row / 16 * 16, kLeast, kMost));
}

// y (rows, outs) = f (rows, k)·Wᵀ. A row of f is `group` pixels of the operand: 1, or the whole
// image.
struct Matrix {
  ConvViews c;
  int64_t rows, group, k, outs;

  explicit Matrix(const ConvViews& views)
      : c(views),
        rows(views.out.pixels()),
        group(views.in.pixels() / views.out.pixels()),
        k(group * views.in.channels),
        outs(views.out.channels) {}

  // The operand can be multiplied where it lies.
  bool direct() const { return c.in.dense() || (c.in.plain() && group == 1); }
  int64_t pitch() const { return group == 1 ? c.in.pitch : k; }
  const float* row(int64_t r) const { return c.in.x + r * group * c.in.pitch; }

  // A worker's rows; whole images where a learned gate takes sums per image.
  Share share(int worker, int workers) const {
    const int64_t unit = c.sink.gated() ? rows / c.in.batch : 1;
    const Share units = share_of(rows / unit, worker, workers);
    return {units.first * unit, units.last * unit};
  }
  int most_workers(const Threads& threads) const {
    return static_cast<int>(std::min<int64_t>(threads.count(), c.sink.gated() ? c.in.batch : rows));
  }
};

// ---------------------------------------------------------------- forward

class MatrixForward {
 public:
  MatrixForward(const Threads& threads, Workspace workspace, const Matrix& m)
      : threads_(threads),
        m_(m),
        tile_(tile_rows(m.k + m.outs, m.rows)),
        workers_(workspace.workers(m.most_workers(threads), [&](Workspace& own, int) {
          return Worker{{m.c.in, own},
                        {m.c.out, m.c.bias, own},
                        own.take<float>(m.direct() ? 0 : tile_ * m.k)};
        })) {}

  void run() {
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], m_.share(w, workers)); });
    OutputWriter::merge(workers_, &Worker::out);
  }

 private:
  struct Worker {
    OperandReader in;
    OutputWriter out;
    float* f;  // (tile, k)
  };

  void work(Worker& worker, Share share) const {
    worker.in.renew();
    worker.out.renew();
    for (int64_t first = share.first; first < share.last; first += tile_) {
      const int64_t last = std::min(first + tile_, share.last);
      const float* f = m_.direct() ? m_.row(first) : worker.f;
      if (!m_.direct())
        worker.in.load(worker.f, m_.c.in.channels, first * m_.group, last * m_.group);
      multiply(false, true, last - first, m_.outs, m_.k, f, m_.direct() ? m_.pitch() : m_.k,
               m_.c.weight, m_.k, 0, m_.c.out.y + first * m_.c.out.pitch, m_.c.out.pitch);
      worker.out.finish(first, last);
    }
  }

  const Threads& threads_;
  Matrix m_;
  int64_t tile_;
  std::vector<Worker> workers_;
};

// ---------------------------------------------------------------- backward

// Reads dy once and x once: both gradients and all sums come from one pass.
class MatrixBackward {
 public:
  MatrixBackward(const Threads& threads, Workspace workspace, const Matrix& m)
      : threads_(threads),
        m_(m),
        tile_(tile_rows(2 * m.k + m.outs, m.rows)),
        workers_(workspace.workers(m.most_workers(threads), [&](Workspace& own, int w) {
          return Worker{{m.c.dy, own},
                        {m.c.sink, m.c.in, own},
                        {static_cast<int>(m.outs), own},
                        own.take<float>(tile_ * m.outs),
                        own.take<float>(tile_ * m.k),
                        own.take<float>(tile_ * m.k),
                        w == 0 ? m.c.dweight : own.take<float>(m.outs * m.k)};
        })) {}

  void run() {
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], m_.share(w, workers)); });
    GradientWriter::merge(workers_, &Worker::writer);
    if (m_.c.dbias) ColumnSums::merge(m_.c.dbias, workers_, &Worker::bias);
    threads_.run(workers, [&](int w) {
      const Share part = share_of(m_.outs * m_.k, w, workers);
      for (int other = 1; other < workers; ++other)
        row_kernels().add_scaled(m_.c.dweight + part.first, workers_[other].dweight + part.first, 1,
                                 part.size());
    });
  }

 private:
  struct Worker {
    GradientReader gradient;
    GradientWriter writer;
    ColumnSums bias;
    float *dy, *df, *f;  // (tile, outs), (tile, k), (tile, k)
    float* dweight;      // (outs, k): this worker's share of the sum
  };

  void work(Worker& worker, Share share) const {
    worker.gradient.renew();
    worker.writer.renew();
    worker.bias.renew();
    std::fill_n(worker.dweight, m_.outs * m_.k, 0.f);
    for (int64_t first = share.first; first < share.last; first += tile_)
      work_tile(worker, first, std::min(first + tile_, share.last));
  }

  void work_tile(Worker& worker, int64_t first, int64_t last) const {
    const GradientView<float>& gradient = m_.c.dy;
    const int64_t rows = last - first;
    const float* dy = gradient.grad + first * gradient.pitch;
    int64_t dy_pitch = gradient.pitch;
    if (!worker.gradient.direct()) {
      worker.gradient.load(worker.dy, m_.outs, first, last);
      dy = worker.dy;
      dy_pitch = m_.outs;
    }
    if (m_.c.dbias) worker.bias.add(dy, dy_pitch, rows);
    const float* f = operand_and_its_gradient(worker, dy, dy_pitch, first, last);
    multiply(true, false, m_.outs, m_.k, rows, dy, dy_pitch, f, f == worker.f ? m_.k : m_.pitch(),
             1, worker.dweight, m_.k);
  }

  // Stores the operand's gradient, if it is wanted, and returns f: the operand itself or this
  // worker's tile.
  const float* operand_and_its_gradient(Worker& worker, const float* dy, int64_t dy_pitch,
                                        int64_t first, int64_t last) const {
    GradientWriter& writer = worker.writer;
    const GradientSink<float>& sink = writer.sink();
    const int64_t rows = last - first, pixel = first * m_.group, end = last * m_.group,
                  channels = m_.c.in.channels;
    float* f = m_.direct() ? nullptr : worker.f;
    const bool in_place = writer.direct() && (m_.group == 1 || sink.pitch == channels);
    if (writer.wanted() && in_place) {
      multiply(false, false, rows, m_.k, m_.outs, dy, dy_pitch, m_.c.weight, m_.k,
               sink.how == Write::add ? 1 : 0, sink.grad + pixel * sink.pitch,
               m_.group == 1 ? sink.pitch : m_.k);
    } else if (writer.wanted()) {
      multiply(false, false, rows, m_.k, m_.outs, dy, dy_pitch, m_.c.weight, m_.k, 0, worker.df,
               m_.k);
      writer.store(worker.df, channels, f, channels, pixel, end);
      return f ? f : m_.row(first);
    }
    if (f) writer.operand().load(f, channels, pixel, end);
    return f ? f : m_.row(first);
  }

  const Threads& threads_;
  Matrix m_;
  int64_t tile_;
  std::vector<Worker> workers_;
};

}  // namespace

ConvWork prepare_matrix(const Threads& threads, const Workspace& workspace, bool training,
                        const ConvViews& c) {
  ConvViews forward = c;
  forward.sink = {};
  ConvWork work{runner<MatrixForward>(threads, workspace, Matrix(forward)), {}};
  if (training) work.backward = runner<MatrixBackward>(threads, workspace, Matrix(c));
  return work;
}

}  // namespace engine::cpu

// Convolutions that are one matrix product: pointwise ones, and a linear layer, whose kernel is the image. Each worker
// takes tiles of rows small enough for its cache: load, multiply, store with statistics; nothing but operands, outputs
// and their gradients touches memory. The products read and write strided slices as they are.
#include <algorithm>
#include <memory>

#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

// Rows of a tile: its operands should stay in a core's second-level cache, and a product should not be too thin.
int64_t tile_rows(int64_t floats_per_row, int64_t rows) {
  constexpr int64_t kCacheFloats = 96 << 10, kLeast = 128, kMost = 512;
  return std::min(rows,
                  std::clamp<int64_t>(kCacheFloats / floats_per_row / 16 * 16, kLeast, kMost));
}

// y (rows, outs) = f (rows, k)·Wᵀ. A row of f is `group` pixels of the operand: 1, or the whole image.
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
  MatrixForward(const Threads& threads, const Program& program, const std::string& name,
                const Matrix& m)
      : threads_(threads), m_(m), tile_(tile_rows(m.k + m.outs, m.rows)) {
    Workspace workspace(program, name);
    const int64_t floats = m.direct() ? 0 : tile_ * m.k;
    const int workers = workspace.workers(
        m.most_workers(threads),
        OperandReader::bytes(m.c.in) + OutputWriter::bytes(m.c.out) + block_bytes<float>(floats));
    for (int w = 0; w < workers; ++w) {
      in_.emplace_back(m.c.in, workspace);
      out_.emplace_back(m.c.out, m.c.bias, workspace);
      f_.push_back(workspace.take<float>(floats));
    }
  }

  void run() {
    const int workers = static_cast<int>(in_.size());
    threads_.run(workers, [&](int w) { work(w, m_.share(w, workers)); });
    OutputWriter::merge(out_);
  }

 private:
  void work(int w, Share share) {
    in_[w].renew();
    out_[w].renew();
    for (int64_t first = share.first; first < share.last; first += tile_) {
      const int64_t last = std::min(first + tile_, share.last);
      const float* f = m_.direct() ? m_.row(first) : f_[w];
      if (!m_.direct()) in_[w].load(f_[w], m_.c.in.channels, first * m_.group, last * m_.group);
      multiply(false, true, last - first, m_.outs, m_.k, f, m_.direct() ? m_.pitch() : m_.k,
               m_.c.weight, m_.k, 0, m_.c.out.y + first * m_.c.out.pitch, m_.c.out.pitch);
      out_[w].finish(first, last);
    }
  }

  const Threads& threads_;
  Matrix m_;
  int64_t tile_;
  std::vector<OperandReader> in_;
  std::vector<OutputWriter> out_;
  std::vector<float*> f_;  // (tile, k)
};

// ---------------------------------------------------------------- backward

// dy once, x once: both gradients and all sums from one pass.
class MatrixBackward {
 public:
  MatrixBackward(const Threads& threads, const Program& program, const std::string& name,
                 const Matrix& m)
      : threads_(threads), m_(m), tile_(tile_rows(2 * m.k + m.outs, m.rows)) {
    Workspace workspace(program, name);
    const size_t buffers = block_bytes<float>(tile_ * m.outs) +
                           2 * block_bytes<float>(tile_ * m.k) + block_bytes<float>(m.outs * m.k);
    const int workers =
        workspace.workers(m.most_workers(threads),
                          GradientReader::bytes(m.c.dy) + GradientWriter::bytes(m.c.sink, m.c.in) +
                              ColumnSums::bytes(static_cast<int>(m.outs)) + buffers);
    for (int w = 0; w < workers; ++w) {
      dy_.emplace_back(m.c.dy, workspace);
      writer_.emplace_back(m.c.sink, m.c.in, workspace);
      bias_.emplace_back(static_cast<int>(m.outs), workspace);
      tiles_.push_back({.dy = workspace.take<float>(tile_ * m.outs),
                        .df = workspace.take<float>(tile_ * m.k),
                        .f = workspace.take<float>(tile_ * m.k),
                        .dweight = w == 0 ? m.c.dweight : workspace.take<float>(m.outs * m.k)});
    }
  }

  void run() {
    const int workers = static_cast<int>(dy_.size());
    threads_.run(workers, [&](int w) { work(w, m_.share(w, workers)); });
    GradientWriter::merge(writer_);
    if (m_.c.dbias) ColumnSums::merge(m_.c.dbias, bias_);
    threads_.run(workers, [&](int w) {
      const Share part = share_of(m_.outs * m_.k, w, workers);
      for (int other = 1; other < workers; ++other)
        row_kernels().add_scaled(m_.c.dweight + part.first, tiles_[other].dweight + part.first, 1,
                                 part.size());
    });
  }

 private:
  struct Tiles {
    float *dy, *df, *f;  // (tile, outs), (tile, k), (tile, k)
    float* dweight;      // (outs, k): this worker's share of the sum
  };

  void work(int w, Share share) {
    dy_[w].renew();
    writer_[w].renew();
    bias_[w].renew();
    std::fill_n(tiles_[w].dweight, m_.outs * m_.k, 0.f);
    for (int64_t first = share.first; first < share.last; first += tile_)
      work_tile(w, first, std::min(first + tile_, share.last));
  }

  void work_tile(int w, int64_t first, int64_t last) {
    const GradientView<float>& gradient = m_.c.dy;
    const int64_t rows = last - first;
    const float* dy = gradient.grad + first * gradient.pitch;
    int64_t dy_pitch = gradient.pitch;
    if (!dy_[w].direct()) {
      dy_[w].load(tiles_[w].dy, m_.outs, first, last);
      dy = tiles_[w].dy;
      dy_pitch = m_.outs;
    }
    if (m_.c.dbias) bias_[w].add(dy, dy_pitch, rows);
    const float* f = operand_and_its_gradient(w, dy, dy_pitch, first, last);
    multiply(true, false, m_.outs, m_.k, rows, dy, dy_pitch, f,
             f == tiles_[w].f ? m_.k : m_.pitch(), 1, tiles_[w].dweight, m_.k);
  }

  // Stores the operand's gradient, if wanted, and returns f: the operand itself or this worker's tile.
  const float* operand_and_its_gradient(int w, const float* dy, int64_t dy_pitch, int64_t first,
                                        int64_t last) {
    GradientWriter& writer = writer_[w];
    const GradientSink<float>& sink = writer.sink();
    const int64_t rows = last - first, pixel = first * m_.group, end = last * m_.group,
                  channels = m_.c.in.channels;
    float* f = m_.direct() ? nullptr : tiles_[w].f;
    const bool in_place = writer.direct() && (m_.group == 1 || sink.pitch == channels);
    if (writer.wanted() && in_place) {
      multiply(false, false, rows, m_.k, m_.outs, dy, dy_pitch, m_.c.weight, m_.k,
               sink.how == Write::add ? 1 : 0, sink.grad + pixel * sink.pitch,
               m_.group == 1 ? sink.pitch : m_.k);
    } else if (writer.wanted()) {
      multiply(false, false, rows, m_.k, m_.outs, dy, dy_pitch, m_.c.weight, m_.k, 0, tiles_[w].df,
               m_.k);
      writer.store(tiles_[w].df, channels, f, channels, pixel, end);
      return f ? f : m_.row(first);
    }
    if (f) writer.operand().load(f, channels, pixel, end);
    return f ? f : m_.row(first);
  }

  const Threads& threads_;
  Matrix m_;
  int64_t tile_;
  std::vector<GradientReader> dy_;
  std::vector<GradientWriter> writer_;
  std::vector<ColumnSums> bias_;
  std::vector<Tiles> tiles_;
};

}  // namespace

ConvWork prepare_matrix(const Threads& threads, const Program& program, const std::string& name,
                        const ConvViews& c) {
  ConvWork exec;
  ConvViews forward = c;
  forward.sink = {};
  exec.forward = [f = std::make_shared<MatrixForward>(threads, program, name, Matrix(forward))] {
    f->run();
  };
  if (program.training())
    exec.backward = [b = std::make_shared<MatrixBackward>(threads, program, name, Matrix(c))] {
      b->run();
    };
  return exec;
}

}  // namespace engine::cpu

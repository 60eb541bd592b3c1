// Squeeze-excite: one sweep over the operand; the rest works on (N, C) and (N, S) vectors.
#include <algorithm>
#include <cmath>

#include "engine/cost.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

struct Squeeze {
  OperandView<float> in;
  GateView<float> gate;
  GradientSink<float> sums;
  int squeezed;
  const float *reduce, *reduce_bias, *expand, *expand_bias;  // (S, C), (S,), (C, S), (C,)
  float *dreduce, *dreduce_bias, *dexpand, *dexpand_bias;
};

// One sweep takes the means of h and the sums of its slope.
class SqueezeForward {
 public:
  SqueezeForward(const Threads& threads, Workspace workspace, const Squeeze& s)
      : threads_(threads),
        s_(s),
        workers_(workspace.workers(threads.image_workers(s.in.batch), [&](Workspace& own, int) {
          return Worker{{s.in, own}, own.take<float>(3 * padded(s.in.channels))};
        })) {}

  void run() {
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) {
      workers_[w].in.renew();
      const Share images = share_of(s_.in.batch, w, workers);
      for (int64_t image = images.first; image < images.last; ++image) sum(workers_[w], image);
    });
    threads_.run_library([&] { excite(); });
  }

 private:
  struct Worker {
    OperandReader in;
    float* sums;  // (3, padded(C)), of one piece
  };

  void sum(Worker& worker, int64_t image) {
    const int64_t channels = s_.in.channels, pixels = int64_t{s_.in.height} * s_.in.width;
    float* const tile[3] = {worker.sums, worker.sums + padded(channels),
                            worker.sums + 2 * padded(channels)};
    float* const totals[3] = {s_.gate.pooled, s_.gate.slope, s_.gate.slope_xhat};
    const float factors[3] = {1 / static_cast<float>(pixels), 1, 1};
    for (float* total : totals) std::fill_n(total + image * channels, channels, 0.f);
    worker.in.for_pieces(
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
  std::vector<Worker> workers_;
};

// Starts from the sums that the gated reader left; see squeeze_excite_backward of
// kernels/kernels.h.
class SqueezeBackward {
 public:
  SqueezeBackward(const Threads& threads, Workspace workspace, const Squeeze& s)
      : threads_(threads),
        s_(s),
        d2_(workspace.take<float>(int64_t{s.in.batch} * s.in.channels)),
        d1_(workspace.take<float>(int64_t{s.in.batch} * s.squeezed)),
        sum_t_(workspace.take<double>(s.in.channels)),
        sum_t_xhat_(workspace.take<double>(s.in.channels)) {}

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
  const std::string shape = fmt::format("{} to {}", text_of(s.in), s.squeezed);
  StepExec exec;
  exec.forward = one_launch("squeeze_excite_forward", shape, squeeze_excite_cost(s.in, s.squeezed),
                            runner<SqueezeForward>(threads, Workspace(program, squeeze.name), s));
  if (!program.training()) return exec;
  s.sums = program.sums<float>(squeeze.in);
  s.dreduce = program.dparameter<float>(squeeze.reduce_weight);
  s.dreduce_bias = program.dparameter<float>(squeeze.reduce_bias);
  s.dexpand = program.dparameter<float>(squeeze.expand_weight);
  s.dexpand_bias = program.dparameter<float>(squeeze.expand_bias);
  exec.backward =
      one_launch("squeeze_excite_backward", shape, squeeze_excite_backward_cost(s.in, s.squeezed),
                 runner<SqueezeBackward>(threads, Workspace(program, squeeze.name), s));
  return exec;
}

}  // namespace engine::cpu

// The steps that are kernels of our own: squeeze-excite, pool, add, loss; and the visit of all.
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

kernels::GateVectors vectors_of(const Program& program, int gate) {
  const GateView<float> m = program.gate<float>(gate);
  return {.gate = m.gate,
          .pooled = m.pooled,
          .slope = m.slope,
          .slope_xhat = m.slope_xhat,
          .dz_h = m.dz_h,
          .dz_slope = m.dz_slope,
          .dz_slope_xhat = m.dz_slope_xhat,
          .q = m.q,
          .hidden = m.hidden,
          .dhidden = m.dhidden};
}

template <class T>
StepExec prepare_squeeze(Cuda& gpu, const Program& program, const SqueezeExcite& s) {
  const auto in = program.operand<T>(s.in);
  const kernels::GateVectors gate = vectors_of(program, s.gate);
  const int squeezed = program.graph.gates[s.gate].squeezed;
  const kernels::SqueezeExciteWeights weights{
      program.master<float>(s.reduce_weight), program.master<float>(s.reduce_bias),
      program.master<float>(s.expand_weight), program.master<float>(s.expand_bias)};
  StepExec exec{.forward =
                    [=, stream = gpu.stream.get()] {
                      kernels::squeeze_excite_forward(gate, in, weights, squeezed, stream);
                    },
                .backward = {}};
  if (!program.training()) return exec;
  const kernels::SqueezeExciteGradients gradients{
      program.dparameter<float>(s.reduce_weight), program.dparameter<float>(s.reduce_bias),
      program.dparameter<float>(s.expand_weight), program.dparameter<float>(s.expand_bias)};
  exec.backward = [=, sums = program.sums<T>(s.in), stream = gpu.stream.get()] {
    kernels::squeeze_excite_backward(sums, gate, gradients, in, weights, squeezed, stream);
  };
  return exec;
}

template <class T>
StepExec prepare_pool(Cuda& gpu, const Program& program, int index, const Pool& pool) {
  const StepPlan& plan = program.plan.steps[index];
  const auto in = program.operand<T>(pool.in);
  const auto out = program.output<T>(pool.out);
  const Window& w = pool.window;
  const kernels::PoolShape shape{w.kernel_h, w.kernel_w, w.stride, w.padding, pool.maximal};
  float* partials = program.scratch<float>(plan.forward.partials);
  StepExec exec{.forward =
                    [=, stream = gpu.stream.get()] {
                      kernels::pool_forward(out, in, shape, partials, stream);
                    },
                .backward = [] {}};
  if (!program.training()) return exec;
  const auto sink = program.sink<T>(index, 0, pool.in);
  if (!sink.grad) return exec;
  const auto dy = program.gradient<T>(pool.out);
  float* backward_partials = program.scratch<float>(plan.backward.partials);
  exec.backward = [=, stream = gpu.stream.get()] {
    kernels::pool_backward(sink, dy, in, shape, backward_partials, stream);
  };
  return exec;
}

// Each operand's gradient is the sum's, through the operand's epilogue. A plain operand whose
// gradient is the sum's own memory has none.
template <class T>
std::function<void()> add_backward(Cuda& gpu, const Program& program, int index, const Add& add) {
  const StepPlan& plan = program.plan.steps[index];
  const auto gradient = program.gradient<T>(add.out);
  const GradientSink<T> sinks[] = {program.sink<T>(index, 0, add.a),
                                   program.sink<T>(index, 1, add.b)};
  if (!sinks[0].grad && !sinks[1].grad) return [] {};
  T* dense = gradient.dense() ? nullptr
                              : scratch<T>(program, plan.backward.output,
                                           gradient.pixels() * gradient.channels, "dy");
  float* partials = program.scratch<float>(plan.backward.partials);
  return
      [=, a = program.operand<T>(add.a), b = program.operand<T>(add.b), stream = gpu.stream.get()] {
        if (dense) kernels::load_gradient(dense, gradient, stream);
        const T* dy = dense ? dense : gradient.grad;
        if (sinks[0].grad) kernels::store_gradient(sinks[0], dy, a, partials, stream);
        if (sinks[1].grad) kernels::store_gradient(sinks[1], dy, b, partials, stream);
      };
}

template <class T>
StepExec prepare_add(Cuda& gpu, const Program& program, int index, const Add& add) {
  float* partials = program.scratch<float>(program.plan.steps[index].forward.partials);
  StepExec exec{
      .forward = [=, out = program.output<T>(add.out), a = program.operand<T>(add.a),
                  b = program.operand<T>(add.b),
                  stream = gpu.stream.get()] { kernels::add_forward(out, a, b, partials, stream); },
      .backward = {}};
  if (program.training()) exec.backward = add_backward<T>(gpu, program, index, add);
  return exec;
}

// Its forward writes the gradient of the logits too.
template <class T>
StepExec prepare_loss(Cuda& gpu, const Program& program, int index, const Loss& loss) {
  T* dlogits = program.training() ? program.sink<T>(index, 0, loss.in).grad : nullptr;
  return {.forward =
              [dlogits, logits = program.operand<T>(loss.in), targets = program.targets(),
               arenas = program.arenas, stream = gpu.stream.get()] {
                kernels::cross_entropy(dlogits, arenas.results, logits, targets, arenas.scale,
                                       stream);
              },
          .backward = [] {}};
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int, const SqueezeExcite& squeeze) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_squeeze<T>(gpu, program, squeeze); });
}

StepExec prepare(Cuda& gpu, const Program& program, int index, const Pool& pool) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_pool<T>(gpu, program, index, pool); });
}

StepExec prepare(Cuda& gpu, const Program& program, int index, const Add& add) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_add<T>(gpu, program, index, add); });
}

StepExec prepare(Cuda& gpu, const Program& program, int index, const Loss& loss) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_loss<T>(gpu, program, index, loss); });
}

StepExec prepare_step(Cuda& gpu, const Program& program, int index) {
  return std::visit([&](const auto& step) { return prepare(gpu, program, index, step); },
                    program.graph.steps[index]);
}

}  // namespace engine::cuda

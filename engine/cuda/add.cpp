#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "engine/cuda/sweep_launches.h"

namespace engine::cuda {

namespace {

// Each operand's gradient is the sum's, through the operand's epilogue. A plain operand whose
// gradient is the sum's own memory has none.
template <class T>
Launches backward(Cuda& gpu, const Program& program, int index, const Add& add) {
  const ScratchPlan& plan = program.plan.steps[index].backward;
  const auto gradient = program.gradient<T>(add.out);
  const Operand* operands[] = {&add.a, &add.b};
  const GradientSink<T> sinks[] = {program.sink<T>(index, 0, add.a),
                                   program.sink<T>(index, 1, add.b)};
  Launches launches;
  if (!sinks[0].grad && !sinks[1].grad) return launches;
  const T* dy = gradient.grad;
  if (!gradient.dense()) {
    T* dense = scratch<T>(program, plan.output, gradient.pixels() * gradient.channels, "dy");
    launches.push_back(load_gradient(gpu, dense, gradient));
    dy = dense;
  }
  float* partials = program.scratch<float>(plan.partials);
  for (int i = 0; i < 2; ++i)
    if (sinks[i].grad)
      launches.push_back(
          store_gradient(gpu, sinks[i], dy, program.operand<T>(*operands[i]), partials));
  return launches;
}

template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, int index, const Add& add) {
  const auto a = program.operand<T>(add.a), b = program.operand<T>(add.b);
  const auto out = program.output<T>(add.out);
  const kernels::Partials partials =
      sweep_partials(gpu, program.scratch<float>(program.plan.steps[index].forward.partials));
  StepExec exec;
  exec.forward =
      one_launch("add_forward", text_of(a) + " + " + text_of(b),
                 {bytes_of(a) + bytes_of(b) + bytes_of(out), 0}, [=, stream = gpu.stream.get()] {
                   kernels::Addition<T>::forward(out, a, b, partials, stream);
                 });
  if (program.training()) exec.backward = backward<T>(gpu, program, index, add);
  return exec;
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Add& add) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_typed<T>(gpu, program, index, add); });
}

}  // namespace engine::cuda

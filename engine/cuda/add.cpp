#include <fmt/format.h>

#include <algorithm>

#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "engine/cuda/sweep_launches.h"

namespace engine::cuda {

namespace {

template <class T>
Launch activated_backward(const Cuda& gpu, const ActivatedGradient<T>& sum,
                          const GradientSink<T>& sink, const OperandView<T>& in, float* partials) {
  Cost cost{3 * elements_of(in) * sizeof(T), 0};  // reads dh and h, leaves dy
  if (sink.grad) cost.bytes += epilogue_bytes(in) + bytes_of(sink, in);
  return {"add_backward", fmt::format("{} behind {}", text_of(in), name_of(sum.act)), cost,
          [=, sums = sweep_partials(gpu, partials), stream = gpu.stream.get()] {
            kernels::Addition<T>::backward(sum, sink, in, sums, stream);
          }};
}

// Each operand's gradient is the sum's, through the operand's epilogue. A plain operand whose
// gradient is the sum's own memory has none. Where the sum is stored activated, the first launch
// multiplies its gradient by the slope.
template <class T>
Launches backward(Cuda& gpu, const Program& program, int index, const Add& add) {
  const ScratchPlan& plan = program.plan.steps[index].backward;
  const auto gradient = program.gradient<T>(add.out);
  const Operand* operands[] = {&add.a, &add.b};
  const GradientSink<T> sinks[] = {program.sink<T>(index, 0, add.a),
                                   program.sink<T>(index, 1, add.b)};
  auto sum = program.activated_gradient<T>(add);
  Launches launches;
  if (!sinks[0].grad && !sinks[1].grad && !sum.activated()) return launches;
  if (!gradient.dense()) {
    sum.dy = scratch<T>(program, plan.output, gradient.pixels() * gradient.channels, "dy");
    launches.push_back(load_gradient(gpu, sum.dy, gradient));
  }
  float* partials = program.scratch<float>(plan.partials);
  int served = -1;  // by the launch that multiplies; not one that adds to the sum's own memory
  for (int i = 0; i < 2 && sum.activated() && served < 0; ++i)
    if (sinks[i].grad && sinks[i].grad != sum.dy) served = i;
  if (sum.activated())
    launches.push_back(activated_backward(gpu, sum, served < 0 ? GradientSink<T>{} : sinks[served],
                                          program.operand<T>(*operands[std::max(served, 0)]),
                                          partials));
  for (int i = 0; i < 2; ++i)
    if (i != served && sinks[i].grad)
      launches.push_back(
          store_gradient(gpu, sinks[i], sum.dy, program.operand<T>(*operands[i]), partials));
  return launches;
}

template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, int index, const Add& add) {
  const auto a = program.operand<T>(add.a), b = program.operand<T>(add.b);
  const auto out = program.output<T>(add.out);
  const kernels::Partials partials =
      sweep_partials(gpu, program.scratch<float>(program.plan.steps[index].forward.partials));
  StepExec exec;
  exec.forward = one_launch("add_forward", text_of(a) + " + " + text_of(b),
                            {bytes_of(a) + bytes_of(b) + bytes_of(out), 0},
                            [=, act = add.act, stream = gpu.stream.get()] {
                              kernels::Addition<T>::forward(out, a, b, act, partials, stream);
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

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "engine/cuda/sweep_launches.h"

namespace engine::cuda {

namespace {

// Of a sum that is stored activated: makes dy, and serves one operand, or takes the sums of two.
template <class T>
Launch activated_backward(const Cuda& gpu, const ActivatedGradient<T>& sum,
                          const kernels::SummedOperand<T>& first,
                          const kernels::SummedOperand<T>& second, float* partials) {
  const double tensor = elements_of(first.in) * sizeof(T);
  const double slopes = sum.slopes ? slope_bytes(first.in.pixels(), first.in.channels) : tensor;
  Cost cost{2 * tensor + slopes, 0};  // reads dh and the slopes, leaves dy
  std::string shape = text_of(first.in);
  for (const kernels::SummedOperand<T>* operand : {&first, &second})
    if (operand->sink.wanted())
      cost.bytes += epilogue_bytes(operand->in) + bytes_of(operand->sink, operand->in);
  if (second.sink.wanted()) shape += " + " + text_of(second.in);
  return {"add_backward", fmt::format("{} behind {}", shape, name_of(sum.act)), cost,
          [=, sums = sweep_partials(gpu, partials), stream = gpu.stream.get()] {
            kernels::Addition<T>::backward(sum, first, second, sums, stream);
          }};
}

// The operands that the launch which makes dy serves: those of which the sums alone are wanted, or
// else one whose gradient is, unless it adds to the sum's own memory.
template <class T>
std::vector<int> served(const GradientSink<T> (&sinks)[2], const T* dy) {
  std::vector<int> sums, gradients;
  for (int i = 0; i < 2; ++i) {
    if (sinks[i].wanted() && !sinks[i].grad) sums.push_back(i);
    if (sinks[i].grad && sinks[i].grad != dy) gradients.push_back(i);
  }
  if (sums.empty() && !gradients.empty()) return {gradients.front()};
  return sums;
}

// Each operand's gradient is the sum's, through the operand's epilogue; of a plain operand whose
// gradient is the sum's own memory nothing is left to do, of one that is read scaled the sums.
template <class T>
Launches backward(Cuda& gpu, const Program& program, int index, const Add& add) {
  const ScratchPlan& plan = program.plan.steps[index].backward;
  const auto gradient = program.gradient<T>(add.out);
  const OperandView<T> operands[] = {program.operand<T>(add.a), program.operand<T>(add.b)};
  const GradientSink<T> sinks[] = {program.sink<T>(index, 0, add.a),
                                   program.sink<T>(index, 1, add.b)};
  auto sum = program.activated_gradient<T>(index, add);
  Launches launches;
  if (!sinks[0].wanted() && !sinks[1].wanted() && !sum.activated()) return launches;
  if (!gradient.dense()) {
    sum.dy = scratch<T>(program, plan.output, gradient.pixels() * gradient.channels, "dy");
    launches.push_back(load_gradient(gpu, sum.dy, gradient));
  }
  float* partials = program.scratch<float>(plan.partials);
  std::vector<int> done;
  if (sum.activated()) {
    done = served(sinks, sum.dy);
    kernels::SummedOperand<T> terms[2] = {{{}, operands[0]}, {}};
    for (size_t i = 0; i < done.size(); ++i) terms[i] = {sinks[done[i]], operands[done[i]]};
    launches.push_back(activated_backward(gpu, sum, terms[0], terms[1], partials));
  }
  for (int i = 0; i < 2; ++i)
    if (sinks[i].wanted() && std::ranges::find(done, i) == done.end())
      launches.push_back(store_gradient(gpu, sinks[i], sum.dy, operands[i], partials));
  return launches;
}

template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, int index, const Add& add) {
  const auto a = program.operand<T>(add.a), b = program.operand<T>(add.b);
  const auto out = program.output<T>(add.out);
  const kernels::Partials partials =
      sweep_partials(gpu, program.scratch<float>(program.plan.steps[index].forward.partials));
  uint8_t* slopes = program.kept(index);
  const double kept = slopes ? slope_bytes(out.pixels(), out.channels) : 0;
  StepExec exec;
  exec.forward =
      one_launch("add_forward", text_of(a) + " + " + text_of(b),
                 {bytes_of(a) + bytes_of(b) + bytes_of(out) + kept, 0},
                 [=, act = add.act, stream = gpu.stream.get()] {
                   kernels::Addition<T>::forward(out, slopes, a, b, act, partials, stream);
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

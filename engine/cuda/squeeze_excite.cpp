#include "engine/cost.h"
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, const SqueezeExcite& s) {
  const auto in = program.operand<T>(s.in);
  const GateView<float> gate = program.gate<float>(s.gate);
  const int squeezed = program.graph.gates[s.gate].squeezed;
  const kernels::SqueezeExciteWeights weights{
      program.master<float>(s.reduce_weight), program.master<float>(s.reduce_bias),
      program.master<float>(s.expand_weight), program.master<float>(s.expand_bias)};
  const std::string shape = fmt::format("{} to {}", text_of(in), squeezed);
  const cudaStream_t stream = gpu.stream.get();
  StepExec exec;
  exec.forward = one_launch(
      "squeeze_excite_forward", shape, squeeze_excite_cost(in, squeezed),
      [=] { kernels::SqueezeExcitation<T>::forward(gate, in, weights, squeezed, stream); });
  if (!program.training()) return exec;
  const kernels::SqueezeExciteGradients gradients{
      program.dparameter<float>(s.reduce_weight), program.dparameter<float>(s.reduce_bias),
      program.dparameter<float>(s.expand_weight), program.dparameter<float>(s.expand_bias)};
  exec.backward =
      one_launch("squeeze_excite_backward", shape, squeeze_excite_backward_cost(in, squeezed),
                 [=, sums = program.sums<T>(s.in)] {
                   kernels::SqueezeExcitation<T>::backward(sums, gate, gradients, in, weights,
                                                           squeezed, stream);
                 });
  return exec;
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int, const SqueezeExcite& squeeze) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_typed<T>(gpu, program, squeeze); });
}

}  // namespace engine::cuda

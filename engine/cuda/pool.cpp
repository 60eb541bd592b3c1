#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "engine/cuda/sweep_launches.h"

namespace engine::cuda {

namespace {

template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, int index, const Pool& pool) {
  const StepPlan& plan = program.plan.steps[index];
  const auto in = program.operand<T>(pool.in);
  const auto out = program.output<T>(pool.out);
  const Window window = pool.window;
  const bool maximal = pool.maximal;
  const std::string shape = text_of(pool, in);
  const cudaStream_t stream = gpu.stream.get();
  const KeptMaxima<T> kept(program.kept(index), out.pixels() * out.channels);
  StepExec exec;
  exec.forward = one_launch(
      "pool_forward", shape, pool_cost(out, in, kept),
      [=, partials = sweep_partials(gpu, program.scratch<float>(plan.forward.partials))] {
        kernels::Pooling<T>::forward(out, in, window, maximal, kept, partials, stream);
      });
  if (!program.training()) return exec;
  const auto sink = program.sink<T>(index, 0, pool.in);
  if (!sink.grad) return exec;
  const auto dy = program.gradient<T>(pool.out);
  const bool fresh = sink.how == Write::assign && !sink.gated() && !dy.gated();
  const KeptMaxima<T> winners = fresh ? kept : KeptMaxima<T>{};
  exec.backward = one_launch(
      "pool_backward", shape, pool_backward_cost(sink, dy, in, maximal, winners),
      [=, partials = sweep_partials(gpu, program.scratch<float>(plan.backward.partials))] {
        kernels::Pooling<T>::backward(sink, dy, in, window, maximal, winners, partials, stream);
      });
  return exec;
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Pool& pool) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_typed<T>(gpu, program, index, pool); });
}

}  // namespace engine::cuda

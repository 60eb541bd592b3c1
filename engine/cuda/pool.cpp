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
  StepExec exec;
  exec.forward = one_launch(
      "pool_forward", shape, pool_cost(out, in),
      [=, partials = sweep_partials(gpu, program.scratch<float>(plan.forward.partials))] {
        kernels::Pooling<T>::forward(out, in, window, maximal, partials, stream);
      });
  if (!program.training()) return exec;
  const auto sink = program.sink<T>(index, 0, pool.in);
  if (!sink.grad) return exec;
  const auto dy = program.gradient<T>(pool.out);
  exec.backward = one_launch(
      "pool_backward", shape, pool_backward_cost(sink, dy, in, maximal),
      [=, partials = sweep_partials(gpu, program.scratch<float>(plan.backward.partials))] {
        kernels::Pooling<T>::backward(sink, dy, in, window, maximal, partials, stream);
      });
  return exec;
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Pool& pool) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_typed<T>(gpu, program, index, pool); });
}

}  // namespace engine::cuda

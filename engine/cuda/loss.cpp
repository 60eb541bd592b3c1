#include "engine/cost.h"
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, int index, const Loss& loss) {
  T* dlogits = program.training() ? program.sink<T>(index, 0, loss.in).grad : nullptr;
  const auto logits = program.operand<T>(loss.in);
  const TargetView targets = program.targets();
  const auto forward = [=, arenas = program.arenas, stream = gpu.stream.get()] {
    const auto run =
        targets.presence ? kernels::CrossEntropy<T>::run_labels : kernels::CrossEntropy<T>::run;
    run(dlogits, arenas.results, logits, targets, arenas.scale, stream);
  };
  return loss_exec(logits, targets, forward);
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Loss& loss) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_typed<T>(gpu, program, index, loss); });
}

}  // namespace engine::cuda

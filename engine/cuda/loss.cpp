#include "engine/cost.h"
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

// The forward writes the gradient of the logits, too.
template <class T>
StepExec prepare_typed(Cuda& gpu, const Program& program, int index, const Loss& loss) {
  T* dlogits = program.training() ? program.sink<T>(index, 0, loss.in).grad : nullptr;
  const auto logits = program.operand<T>(loss.in);
  const auto forward = [=, targets = program.targets(), arenas = program.arenas,
                        stream = gpu.stream.get()] {
    kernels::CrossEntropy<T>::run(dlogits, arenas.results, logits, targets, arenas.scale, stream);
  };
  return {
      .forward = one_launch("cross_entropy", text_of(logits), {2 * bytes_of(logits), 0}, forward),
      .backward = {}};
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Loss& loss) {
  return visit_storage(program.precision(),
                       [&]<class T>() { return prepare_typed<T>(gpu, program, index, loss); });
}

}  // namespace engine::cuda

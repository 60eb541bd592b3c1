// One function per kind of step, which closes over every address of step `index` of a program.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "engine/backend.h"
#include "engine/cpu/threads.h"
#include "engine/cpu/workspace.h"

namespace engine::cpu {

StepExec prepare(const Threads& threads, const Program& program, int index, const Conv& conv);
StepExec prepare(const Threads& threads, const Program& program, int index,
                 const SqueezeExcite& squeeze);
StepExec prepare(const Threads& threads, const Program& program, int index, const Pool& pool);
StepExec prepare(const Threads& threads, const Program& program, int index, const Add& add);
StepExec prepare(const Threads& threads, const Program& program, int index, const Loss& loss);

// Makes the forward or backward pass of a step, with its workers, and returns what runs it.
template <class Pass, class... Arguments>
std::function<void()> runner(const Threads& threads, Arguments&&... arguments) {
  return [pass = std::make_shared<Pass>(threads, std::forward<Arguments>(arguments)...)] {
    pass->run();
  };
}

// The views and addresses that both directions of a convolution touch.
struct ConvViews {
  OperandView<float> in;
  SliceView<float> out;
  GradientView<float> dy;
  GradientSink<float> sink;    // backward only
  const float *weight, *bias;  // (O, KH, KW, I); (O,) or null
  float *dweight, *dbias;      // backward only
  Window window;
};

// A prepared form; it has no backward without training.
struct ConvWork {
  std::function<void()> forward, backward;
};

// The forms, one file each: conv_matrix.cpp, conv_library.cpp, conv_fused.cpp. Each direction takes
// the workspace from its start.
ConvWork prepare_matrix(const Threads& threads, const Workspace& workspace, bool training,
                        const ConvViews& c);
ConvWork prepare_library(const Threads& threads, const Workspace& workspace, bool training,
                         const ConvViews& c);
ConvWork prepare_fused(const Threads& threads, const Workspace& workspace, bool training,
                       const ConvViews& c);

// C (m × n, row-major) = A·B + beta·C by oneDNN; A and B may be transposed in memory.
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace engine::cpu

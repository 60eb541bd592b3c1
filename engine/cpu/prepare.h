// One function per kind of step: it closes over every address of step `index` of a program. Steps never
// overlap, so each takes the workspace from its start.
#pragma once

#include "engine/backend.h"
#include "engine/cpu/threads.h"

namespace engine::cpu {

StepExec prepare(const Threads& threads, const Program& program, int index, const Conv& conv);
StepExec prepare(const Threads& threads, const Program& program, int index,
                 const SqueezeExcite& squeeze);
StepExec prepare(const Threads& threads, const Program& program, int index, const Pool& pool);
StepExec prepare(const Threads& threads, const Program& program, int index, const Add& add);
StepExec prepare(const Threads& threads, const Program& program, int index, const Loss& loss);

// What both directions of a convolution touch.
struct ConvViews {
  OperandView<float> in;
  SliceView<float> out;
  GradientView<float> dy;
  GradientSink<float> sink;    // backward only
  const float *weight, *bias;  // (O, KH, KW, I); (O,) or null
  float *dweight, *dbias;      // backward only
  Window window;
};

// A prepared form; no backward without training.
struct ConvWork {
  std::function<void()> forward, backward;
};

// The forms, one file each: conv_matrix.cpp, conv_library.cpp, conv_fused.cpp.
ConvWork prepare_matrix(const Threads& threads, const Program& program, const std::string& name,
                        const ConvViews& c);
ConvWork prepare_library(const Threads& threads, const Program& program, const std::string& name,
                         const ConvViews& c);
ConvWork prepare_fused(const Threads& threads, const Program& program, const std::string& name,
                       const ConvViews& c);

// C (m × n, row-major) = A·B + beta·C, with A or B transposed in memory or not; through oneDNN.
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace engine::cpu

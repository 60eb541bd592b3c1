// One step of a program, prepared: every address and algorithm of its two directions is fixed here.
#pragma once

#include "engine/backend.h"
#include "engine/cuda/context.h"
#include "engine/error.h"
#include "engine/program.h"

namespace engine::cuda {

// One overload per kind of step, in the file of that name; a kind without one does not compile.
StepExec prepare(Cuda& gpu, const Program& program, int index, const Conv& conv);
StepExec prepare(Cuda& gpu, const Program& program, int index, const SqueezeExcite& squeeze);
StepExec prepare(Cuda& gpu, const Program& program, int index, const Pool& pool);
StepExec prepare(Cuda& gpu, const Program& program, int index, const Add& add);
StepExec prepare(Cuda& gpu, const Program& program, int index, const Loss& loss);

// Scratch that a step cannot do without, for `elements` values.
template <class T>
T* scratch(const Program& program, const Range& range, int64_t elements, const char* what) {
  require(range.bytes >= elements * sizeof(T), Failure::internal,
          "{} wants {} bytes of scratch, {} are planned", what, elements * sizeof(T), range.bytes);
  return program.scratch<T>(range);
}

}  // namespace engine::cuda

// What every part of the CUDA backend works with, passed by reference: no global stream or handle.
#pragma once

#include "engine/backend.h"
#include "engine/cuda/algorithms.h"
#include "engine/cuda/handles.h"
#include "engine/program.h"

namespace engine::cuda {

struct Cuda {
  explicit Cuda(int device);  // makes `device` the calling thread's

  int device;
  Stream stream;  // all kernels and library calls
  Stream copies;  // uploads of batches
  Cudnn dnn;
  CublasLt blaslt;
  Counters counters;  // of the sweeps: kernels::Partials
  Algorithms algorithms;
};

// Of a backend that the module made.
Cuda& cuda_of(Backend& backend);

struct Workspace {
  void* data;
  size_t bytes;
};

inline Workspace workspace(const Program& program) {
  return {program.arenas.workspace.at, program.plan.options.workspace};
}

}  // namespace engine::cuda

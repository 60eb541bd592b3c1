// Convolutions by cuDNN on dense NHWC tensors: three directions, each planned with its own
// algorithm.
#pragma once

#include <optional>

#include "engine/cuda/context.h"
#include "engine/launch.h"

namespace engine::cuda {

struct ConvolutionShape {
  int batch, height, width, channels;       // of x
  int out_height, out_width, out_channels;  // of y
  Window window;
  int groups;  // 1, or channels of a depthwise convolution
  cudnnDataType_t type;
  Precision precision;
};

// Each returns nothing where cuDNN has no algorithm that fits the workspace.
// x (N, H, W, C), y (N, H', W', C'), w (C', K, K, C / groups); all dense, in the storage type.
std::optional<Launch> plan_forward(Cuda& gpu, void* y, const void* x, const void* w,
                                   const ConvolutionShape& shape, const Workspace& workspace);
std::optional<Launch> plan_dgrad(Cuda& gpu, void* dx, const void* w, const void* dy,
                                 const ConvolutionShape& shape, const Workspace& workspace);
std::optional<Launch> plan_wgrad(Cuda& gpu, void* dw, const void* x, const void* dy,
                                 const ConvolutionShape& shape, const Workspace& workspace);

}  // namespace engine::cuda

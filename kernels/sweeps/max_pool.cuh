// The maximum pool of the networks' stems, apart from the other pools of sweeps/pool.cu.
#pragma once

#include "kernels/kernels.h"

namespace engine::kernels {

// Pooling's contract, for relu operands without a gate under windows of 3 × 3, stride 2, padding 1,
// in memory that pairs of channels fit. Both say whether they took the launch.
template <class T>
struct StemPool {
  static bool forward(const SliceView<T>& out, const OperandView<T>& in, const Window& window,
                      const KeptMaxima<T>& kept, const Partials& partials, cudaStream_t stream);
  // Where the forward has kept its winners. dy may be normed but not gated.
  static bool backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                       const OperandView<T>& in, const Window& window, const KeptMaxima<T>& kept,
                       const Partials& partials, cudaStream_t stream);
};

}  // namespace engine::kernels

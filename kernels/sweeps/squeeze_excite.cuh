// What the two directions of squeeze-excite share.
#pragma once

#include "kernels/kernels.h"
#include "kernels/partials.cuh"

namespace engine::kernels {

// Images that a warp makes at a time: they share the weights that it reads.
constexpr int kImages = 4;

// Sizes of the vectors: N images, C channels, S squeezed; 1/(H·W).
struct Sizes {
  int batch, channels, squeezed;
  float per_pixel;
};

inline unsigned blocks_of(int count, int each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// From the sums of dz to q, the four gradients (+=), and the norm's sums.
void squeeze_excite_backward(const SqueezeExciteGradients& gradients, const NormSums& sums,
                             const GateView<float>& gate, const SqueezeExciteWeights& weights,
                             const Sizes& size, cudaStream_t stream);

}  // namespace engine::kernels

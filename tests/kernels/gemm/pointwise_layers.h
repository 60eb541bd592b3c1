// Layers that the tests of pointwise products share.
#pragma once

#include <cmath>

#include "tests/kernels/gpu.h"

namespace engine::test {

// A layer: the extents of its operand and of its output.
struct PointwiseLayer {
  Extent in, out;
};

inline PointwiseLayer layer(int batch, int height, int width, Extent in, Extent out) {
  for (Extent* e : {&in, &out}) e->batch = batch, e->height = height, e->width = width;
  return {in, out};
}

// {channels, pitch, c0} of the operand and of the output. Depths that are held, whole and in part,
// and streamed; several groups; images of less than a tile, of a tile and more.
inline std::vector<PointwiseLayer> pointwise_layers() {
  const auto slice = [](int channels, int pitch, int c0) {
    return Extent{1, 1, 1, channels, pitch, c0};
  };
  return {layer(1, 1, 1, slice(8, 8, 0), slice(8, 8, 0)),
          layer(2, 5, 7, slice(24, 24, 0), slice(40, 40, 0)),
          layer(3, 7, 7, slice(40, 48, 8), slice(24, 56, 16)),
          layer(2, 9, 13, slice(136, 136, 0), slice(88, 88, 0)),
          layer(1, 17, 19, slice(96, 96, 0), slice(232, 240, 8)),
          layer(2, 33, 31, slice(64, 160, 96), slice(128, 128, 0)),
          layer(5, 4, 8, slice(200, 200, 0), slice(128, 160, 32)),
          layer(3, 11, 9, slice(104, 120, 16), slice(120, 120, 0)),
          layer(2, 37, 29, slice(296, 320, 24), slice(128, 128, 0))};
}

inline std::vector<float> weights(const PointwiseLayer& l) {
  return normal(size_t(l.in.channels) * l.out.channels, 5, 0, 1 / std::sqrt(float(l.in.channels)));
}

constexpr Window kPoint{1, 1, 1, 0};

inline bool has_sm90() {
  int major = 0;
  return has_gpu() &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
         major == 9;
}

}  // namespace engine::test

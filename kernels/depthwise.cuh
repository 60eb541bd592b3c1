// What both directions of a depthwise convolution share: how a block walks its tile.
#pragma once

#include "kernels/transform.cuh"

namespace engine::kernels {

inline dim3 grid_of(const DepthwiseTiles& t) {
  return dim3(t.groups, t.tiles);
}
inline dim3 block_of(const DepthwiseTiles& t) {
  return dim3(t.lanes, t.slots);
}

// One march of a thread: rows [row0, row1) and columns [column, column + width) of image n.
struct March {
  int n, row0, row1, column;
};

// Calls use(march) for this thread's marches of the block's tile.
template <class Use>
__device__ __forceinline__ void for_marches(const DepthwiseTiles& t, int height, Use use) {
  const int first = blockIdx.y * t.per_tile, last = min(t.items, first + t.per_tile);
  for (int u = threadIdx.y; u < (last - first) * t.columns; u += blockDim.y) {
    const int item = first + u / t.columns, strip = item % t.strips;
    use(March{item / t.strips, strip * t.rows, min(height, (strip + 1) * t.rows),
              u % t.columns * t.width});
  }
}

}  // namespace engine::kernels

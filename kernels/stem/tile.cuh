// A tile of the image in shared memory: the rows under a tile of outputs as they lie in memory,
// with zeros outside of the image. See kernels/stem_tiles.h for where a window begins.
#pragma once

#include "kernels/device.cuh"
#include "kernels/operand.h"
#include "kernels/packs.cuh"
#include "kernels/stem_tiles.h"

namespace engine::kernels {

// A thread of a block that is (x, y) for the merge of its sums, and linear for all else.
struct StemThread {
  int index = threadIdx.y * blockDim.x + threadIdx.x, count = blockDim.x * blockDim.y;
  // The same for all of its threads, which the compiler does not see from their indices.
  int warp = __shfl_sync(0xffffffff, index / kWarp, 0);
  int lane = index % kWarp;
  // Of a result of the matrix unit: rows g and g + 8, columns 2t and 2t + 1 of each eight.
  int g = lane / 4, t = lane % 4;
};

// Copies four values, or zeros.
template <class T>
__device__ __forceinline__ void copy_four_or_zero(T* to, const T* from, bool wanted) {
  static_assert(kStemCopied * sizeof(T) == 8);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(banded::shared_address(to)),
               "l"(from), "r"(wanted ? 8 : 0)
               : "memory");
}

// Asks for the rows of the image under a tile: a warp for every so many rows.
template <class T>
__device__ __forceinline__ void copy_tile(T* to, const T* image, const StemCut& cut, int tile,
                                          const StemThread& me) {
  const StemPlace place = stem_place(cut, tile);
  const int pitch = cut.pitch(), values = cut.width * kStemChannels;
  const int first = place.x * kStemStride * kStemChannels - kStemAhead;  // value of the row
  const int top = place.y * kStemStride - cut.kernel / 2;
  for (int row = me.warp; row < cut.staged_rows(); row += me.count / kWarp) {
    const int y = top + row;
    const bool inside = y >= 0 && y < cut.height;
    const T* from = image + (int64_t{place.image} * cut.height + (inside ? y : 0)) * values;
    for (int i = me.lane * kStemCopied; i < pitch; i += kWarp * kStemCopied) {
      const int value = first + i;
      const bool wanted = inside && value >= 0 && value < values;
      copy_four_or_zero(to + row * pitch + i, from + (wanted ? value : 0), wanted);
    }
  }
}

}  // namespace engine::kernels

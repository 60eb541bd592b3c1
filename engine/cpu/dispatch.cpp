// Picks the row kernels that this processor can run.
#include "engine/cpu/rows.h"

namespace engine::cpu {

const RowKernels& row_kernels() {
  static const RowKernels& best =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512cd")
          ? row_kernels_v4()
      : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? row_kernels_v3()
                                                                        : row_kernels_v2();
  return best;
}

}  // namespace engine::cpu

// How a kernel follows another in its stream: it is scheduled while the one ahead still runs, and
// waits for it before it touches memory. That hides the launch and the start of the blocks, also in
// a captured graph.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace engine::kernels {

// Whether the calling thread's device can schedule a kernel before the one ahead of it has ended.
bool launches_overlap();

// The first statement of every kernel that launch() starts, in all of its threads: what lies ahead
// in the stream has ended, and what it wrote is visible. The kernel behind may be scheduled once
// all blocks of this one run, so it takes nothing but what they leave free.
__device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Enqueues a kernel that begins with follow().
template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = launches_overlap() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace engine::kernels

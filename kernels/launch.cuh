// How a kernel follows another in its stream: it is scheduled while the one ahead still runs, and
// waits for it. That hides the launch and the start of the blocks, also in a captured graph.
//
// A kernel that has begun knows that all has ended, and is visible, which lies ahead of the launch
// ahead of it; merges do not count as launches here. So before it waits it may read what is older:
// weights, and in the launch behind a weight's gradient all that both read.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace engine::kernels {

// Whether the calling thread's device can schedule a kernel before the one ahead of it has ended.
bool launches_overlap();

// Until what lies ahead in the stream has ended, and what it wrote is visible. The kernel behind
// may be scheduled once all blocks of this one have come here, so it takes nothing but what they
// leave free. Every kernel that launch() starts calls it, in all of its threads, before it reads
// what the launch ahead may write, and before it writes.
__device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The same for a merge of what the launch ahead has left, which is short: the kernel behind may be
// scheduled before this one has waited.
__device__ __forceinline__ void follow_as_merge() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Enqueues a kernel that follows.
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

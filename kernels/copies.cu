// Describes tensors to the copy engine. The driver's function is asked for by name: nothing here
// links the driver.
#include "kernels/copies.cuh"

#include <type_traits>

namespace engine::kernels {
namespace {

using Encode = std::add_pointer_t<decltype(cuTensorMapEncodeTiled)>;

Encode encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess
             ? reinterpret_cast<Encode>(function)
             : nullptr;
}

}  // namespace

bool describe(CUtensorMap& map, const BoxedTensor& tensor) {
  static const Encode encode = encode_function();
  if (!encode) return false;
  cuuint64_t sizes[4], strides[3];
  cuuint32_t box[4], steps[4];
  for (int i = 0; i < tensor.dimensions; ++i) {
    sizes[i] = tensor.sizes[i], box[i] = tensor.box[i], steps[i] = 1;
    if (i > 0) strides[i - 1] = tensor.strides[i];
  }
  return encode(&map, tensor.type, tensor.dimensions, const_cast<void*>(tensor.data), sizes,
                strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, tensor.swizzle,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace engine::kernels

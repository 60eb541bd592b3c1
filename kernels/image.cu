// Bytes of a staging slot to normalised images: the first thing a step does on the device.
#include "kernels/kernels.h"
#include "kernels/pack.cuh"

namespace engine::kernels {
namespace {

constexpr int kThreads = 256;

struct ChannelScale {
  float mean[3], std[3];
};

// Elements are the batch's bytes in order, channels fastest; a thread takes V neighbours.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    normalise_images_kernel(T* image, const uint8_t* images, int64_t slot_elements,
                            int64_t elements, int channels, ChannelScale scale,
                            const StepParams* params) {
  const uint8_t* from = images + params->slot * slot_elements;
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V;
  if (first >= elements) return;
  uint8_t bytes[V];
  if constexpr (V == 8) {
    *reinterpret_cast<uint2*>(bytes) = *reinterpret_cast<const uint2*>(from + first);
  } else {
    bytes[0] = from[first];
  }
  float value[V];
  int c = static_cast<int>(first % channels);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float mean = c == 0 ? scale.mean[0] : c == 1 ? scale.mean[1] : scale.mean[2];
    const float std = c == 0 ? scale.std[0] : c == 1 ? scale.std[1] : scale.std[2];
    value[k] = (static_cast<float>(bytes[k]) / 255.f - mean) / std;
    c = c + 1 == channels ? 0 : c + 1;
  }
  if constexpr (V == 8 && sizeof(T) == 4) {
    const float low[4] = {value[0], value[1], value[2], value[3]},
                high[4] = {value[4], value[5], value[6], value[7]};
    store_pack(image + first, pack_of<T>(low));
    store_pack(image + first + 4, pack_of<T>(high));
  } else {
    store_pack(image + first, pack_of<T>(value));
  }
}

}  // namespace

template <class T>
void normalise_images(T* image, const uint8_t* images, int batch, int capacity,
                      int64_t pixels_per_image, int channels, const float mean[3],
                      const float std[3], const StepParams* params, cudaStream_t stream) {
  const int64_t elements = batch * pixels_per_image * channels,
                slot = capacity * pixels_per_image * channels;
  const ChannelScale scale{{mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]}};
  const auto launch = [&](auto kernel, int v) {
    const auto blocks = static_cast<unsigned>((elements / v + kThreads - 1) / kThreads);
    kernel<<<blocks, kThreads, 0, stream>>>(image, images, slot, elements, channels, scale, params);
  };
  const bool packs = elements % 8 == 0 && slot % 8 == 0 &&
                     reinterpret_cast<uintptr_t>(images) % 8 == 0 &&
                     reinterpret_cast<uintptr_t>(image) % 16 == 0;
  if (packs)
    launch(normalise_images_kernel<T, 8>, 8);
  else
    launch(normalise_images_kernel<T, 1>, 1);
}

template void normalise_images(float*, const uint8_t*, int, int, int64_t, int, const float[3],
                               const float[3], const StepParams*, cudaStream_t);
template void normalise_images(__half*, const uint8_t*, int, int, int64_t, int, const float[3],
                               const float[3], const StepParams*, cudaStream_t);
template void normalise_images(__nv_bfloat16*, const uint8_t*, int, int, int64_t, int,
                               const float[3], const float[3], const StepParams*, cudaStream_t);

}  // namespace engine::kernels

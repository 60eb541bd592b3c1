// From the staging slot, or the records of the pack that it holds, to normalised images: the first
// thing that a step does on the device.
#include "kernels/device.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/vector.cuh"

namespace engine::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLevelThreads = 1024;

// ---------------------------------------------------------------- bytes as they are

// Elements are the batch's bytes in order, channels fastest; a thread takes V neighbours.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    normalise_images_kernel(T* image, InputView view, int64_t elements) {
  follow();
  const uint8_t* from = view.source().images;
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V;
  if (first >= elements) return;
  uint8_t bytes[V];
  if constexpr (V == 8) {
    *reinterpret_cast<uint2*>(bytes) = *reinterpret_cast<const uint2*>(from + first);
  } else {
    bytes[0] = from[first];
  }
  float value[V];
  int c = static_cast<int>(first % view.channels);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float mean = c == 0 ? view.mean[0] : c == 1 ? view.mean[1] : view.mean[2];
    const float std = c == 0 ? view.std[0] : c == 1 ? view.std[1] : view.std[2];
    value[k] = normalised<float>(bytes[k], mean, std);
    c = c + 1 == view.channels ? 0 : c + 1;
  }
  if constexpr (V == 8 && sizeof(T) == 4) {
    const float low[4] = {value[0], value[1], value[2], value[3]},
                high[4] = {value[4], value[5], value[6], value[7]};
    store_vector(image + first, vector_of<T>(low));
    store_vector(image + first + 4, vector_of<T>(high));
  } else {
    store_vector(image + first, vector_of<T>(value));
  }
}

template <class T>
void normalise_images(T* image, const InputView& view, cudaStream_t stream) {
  const int64_t per_image = int64_t{view.height} * view.width * view.channels;
  const int64_t elements = view.batch * per_image;
  const auto run = [&](auto kernel, int v) {
    const auto blocks = static_cast<unsigned>((elements / v + kThreads - 1) / kThreads);
    launch(kernel, blocks, kThreads, 0, stream, image, view, elements);
  };
  const bool packs = elements % 8 == 0 && view.capacity * per_image % 8 == 0 &&
                     reinterpret_cast<uintptr_t>(view.images) % 8 == 0 &&
                     reinterpret_cast<uintptr_t>(image) % 16 == 0;
  if (packs)
    run(normalise_images_kernel<T, 8>, 8);
  else
    run(normalise_images_kernel<T, 1>, 1);
}

// ---------------------------------------------------------------- records and mixes

// A block finds, for its sample, the mean gray level that the contrast of the record blends with.
template <int C>
__global__ void __launch_bounds__(kLevelThreads) mean_levels_kernel(InputView view) {
  follow();
  const ImageSource source = view.source();
  if (!source.records) return;
  const ImageRecord record = source.records[blockIdx.x];
  const int contrast = contrast_position(record);
  if (contrast == kColorEdits) return;  // nobody asks
  const int pixels = view.height * view.width;
  unsigned long long sum = 0;
  for (int i = threadIdx.x; i < pixels; i += kLevelThreads)
    sum += gray_level(record_pixel<C>(record, view.pack, view.height, view.width, i / view.width,
                                      i % view.width, contrast, 0));
  sum = warp_sum(sum);
  __shared__ unsigned long long sums[kLevelThreads / kWarp];
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kLevelThreads / kWarp; ++i) sum += sums[i];
  view.mean_levels[blockIdx.x] = mean_level(sum, pixels);
}

// A thread takes V neighbouring pixels of one image; blockIdx.y is the sample.
template <class T, int C, int V>
__global__ void __launch_bounds__(kThreads) input_kernel(T* image, InputView view) {
  follow();
  const ImageSource source = view.source();
  const int n = blockIdx.y, pixels = view.height * view.width;
  const int first = (blockIdx.x * kThreads + threadIdx.x) * V;
  if (first >= pixels) return;
  float value[V * C];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    float pixel[C];
    input_pixel<C>(pixel, source, n, (first + k) / view.width, (first + k) % view.width, view.mean,
                   view.std);
#pragma unroll
    for (int c = 0; c < C; ++c) value[k * C + c] = pixel[c];
  }
  T* to = image + (int64_t{n} * pixels + first) * C;
#pragma unroll
  for (int k = 0; k < V * C; k += V) {
    float part[V];
#pragma unroll
    for (int j = 0; j < V; ++j) part[j] = value[k + j];
    store_vector(to + k, vector_of<T>(part));
  }
}

template <class T, int C>
void load_input(T* image, const InputView& view, cudaStream_t stream) {
  if (view.pack) launch(mean_levels_kernel<C>, view.batch, kLevelThreads, 0, stream, view);
  const int pixels = view.height * view.width;
  const auto run = [&](auto kernel, int v) {
    const dim3 blocks((pixels / v + kThreads - 1) / kThreads, view.batch);
    launch(kernel, blocks, kThreads, 0, stream, image, view);
  };
  if (pixels % 4 == 0 && reinterpret_cast<uintptr_t>(image) % 16 == 0)
    run(input_kernel<T, C, 4>, 4);
  else
    run(input_kernel<T, C, 1>, 1);
}

}  // namespace

template <class T>
void Images<T>::load(T* image, const InputView& view, cudaStream_t stream) {
  if (!view.pack && !view.mixes)
    normalise_images(image, view, stream);
  else if (view.channels == 1)
    load_input<T, 1>(image, view, stream);
  else
    load_input<T, 3>(image, view, stream);
}

template struct Images<float>;
template struct Images<__half>;
template struct Images<__nv_bfloat16>;

}  // namespace engine::kernels

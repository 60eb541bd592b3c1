// The end of a step, over flat arenas: overflow check, optimizers, loss scale, casts; and the running statistics.
#include "kernels/kernels.h"
#include "kernels/pack.cuh"

namespace engine::kernels {
namespace {

constexpr int kThreads = 256, kFlatBlocks = 132 * 8;

// Calls use(i) for packs of V elements [i, i + V), then for the rest of n one by one as single(i).
template <int V, class Use, class Single>
__device__ __forceinline__ void for_elements(int64_t n, Use use, Single single) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                threads = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = n / V;
  for (int64_t i = thread; i < packs; i += threads) use(i * V);
  for (int64_t i = packs * V + thread; i < n; i += threads) single(i);
}

unsigned flat_blocks(int64_t n, int each) {
  const int64_t blocks = (n / each + kThreads - 1) / kThreads;
  return static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, kFlatBlocks));
}

// ---------------------------------------------------------------- overflow

__device__ __forceinline__ bool not_finite(float x) {
  return (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u;
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    check_finite_kernel(ScaleState* scale, const float* gradients, int64_t n) {
  if (!scale->dynamic) return;
  bool found = false;
  for_elements<V>(
      n,
      [&](int64_t i) {
        const Pack<float, V> g = load_pack<V>(gradients + i);
#pragma unroll
        for (int k = 0; k < V; ++k) found |= not_finite(g.at[k]);
      },
      [&](int64_t i) { found |= not_finite(gradients[i]); });
  if (found) scale->found_inf = 1;  // every writer writes the same
}

// ---------------------------------------------------------------- optimizers

// Applies rule(w, moments…, g) to one pack of V elements: M moment arrays, n apart.
template <class T, int V, int M, class Rule>
__device__ __forceinline__ void update_pack(float* weights, float* moments, T* copies,
                                            const float* gradients, int64_t n, int64_t i,
                                            float unscale, Rule rule) {
  Pack<float, V> w = load_pack<V>(weights + i), g = load_pack<V>(gradients + i), m[M];
#pragma unroll
  for (int j = 0; j < M; ++j) m[j] = load_pack<V>(moments + j * n + i);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    float of[M];
#pragma unroll
    for (int j = 0; j < M; ++j) of[j] = m[j].at[k];
    rule(w.at[k], of, g.at[k] * unscale);
#pragma unroll
    for (int j = 0; j < M; ++j) m[j].at[k] = of[j];
  }
  store_pack(weights + i, w);
#pragma unroll
  for (int j = 0; j < M; ++j) store_pack(moments + j * n + i, m[j]);
  if (copies) store_pack(copies + i, pack_of<T>(w.at));
}

__device__ __forceinline__ float unscale_of(const ScaleState* scale) {
  return static_cast<float>(1.0 / static_cast<double>(scale->scale));
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(float* weights, float* moments, T* copies, const float* gradients, int64_t n,
                const StepParams* params, const ScaleState* scale, AdamStep step) {
  __shared__ double bias1, bias2;
  if (scale->found_inf) return;
  if (threadIdx.x == 0) {
    const double t = static_cast<double>(scale->optimizer_steps + 1);
    bias1 = 1 - pow(step.beta1, t);
    bias2 = 1 - pow(step.beta2, t);
  }
  __syncthreads();
  step.learning_rate = params->learning_rate;
  step.bias1 = bias1;
  step.bias2 = bias2;
  const float unscale = unscale_of(scale);
  const auto rule = [&](float& w, float(&m)[2], float g) { adam(w, m[0], m[1], g, step); };
  for_elements<V>(
      n,
      [&](int64_t i) {
        update_pack<T, V, 2>(weights, moments, copies, gradients, n, i, unscale, rule);
      },
      [&](int64_t i) {
        update_pack<T, 1, 2>(weights, moments, copies, gradients, n, i, unscale, rule);
      });
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    sgd_kernel(float* weights, float* moments, T* copies, const float* gradients, int64_t n,
               const StepParams* params, const ScaleState* scale, SgdStep step) {
  if (scale->found_inf) return;
  step.learning_rate = params->learning_rate;
  step.first = scale->optimizer_steps == 0;
  const float unscale = unscale_of(scale);
  const auto rule = [&](float& w, float(&m)[1], float g) { sgd(w, m[0], g, step); };
  for_elements<V>(
      n,
      [&](int64_t i) {
        update_pack<T, V, 1>(weights, moments, copies, gradients, n, i, unscale, rule);
      },
      [&](int64_t i) {
        update_pack<T, 1, 1>(weights, moments, copies, gradients, n, i, unscale, rule);
      });
}

constexpr int kGrowthInterval = 2000;  // of PyTorch's GradScaler

__global__ void finish_step_kernel(ScaleState* scale, StepResult* results, const StepParams* params,
                                   bool updated) {
  StepResult& result = results[params->result];
  ScaleState s = *scale;
  result.overflow = s.found_inf;
  result.scale = s.scale;
  if (updated) {
    if (!s.found_inf) ++s.optimizer_steps;
    if (s.dynamic && s.found_inf) {
      s.scale *= 0.5f;
      s.good_steps = 0;
    } else if (s.dynamic && ++s.good_steps == kGrowthInterval) {
      s.scale *= 2.f;
      s.good_steps = 0;
    }
    *scale = s;
  }
  __threadfence_system();  // the host takes the step's number as the sign that the rest is there
  *static_cast<volatile uint64_t*>(&result.step) = params->step;
}

// ---------------------------------------------------------------- casts, running statistics

template <class To, class From, int V>
__global__ void __launch_bounds__(kThreads) cast_kernel(To* to, const From* from, int64_t n) {
  for_elements<V>(
      n,
      [&](int64_t i) {
        float value[V];
        unpack(value, load_pack<V>(from + i));
        store_pack(to + i, pack_of<To>(value));
      },
      [&](int64_t i) { to[i] = from_float<To>(to_float(from[i])); });
}

__global__ void __launch_bounds__(kThreads) update_running_kernel(const RunningNorm* norms) {
  const RunningNorm norm = norms[blockIdx.y];
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= norm.channels) return;
  norm.running_mean[c] += norm.momentum * (norm.mean[c] - norm.running_mean[c]);
  norm.running_var[c] += norm.momentum * (norm.unbias * norm.var[c] - norm.running_var[c]);
}

template <int V, class T>
bool aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * V) == 0;
}

template <class To, class From>
void launch_cast(To* to, const From* from, int64_t n, cudaStream_t stream) {
  constexpr int V = std::min(kPack<To>, kPack<From>);
  if (n == 0) return;
  if (aligned<V>(to) && aligned<V>(from))
    cast_kernel<To, From, V><<<flat_blocks(n, V), kThreads, 0, stream>>>(to, from, n);
  else
    cast_kernel<To, From, 1><<<flat_blocks(n, 1), kThreads, 0, stream>>>(to, from, n);
}

// Whether packs of four fit all arrays of an update; the second moment array starts at moments + n.
template <class T>
bool update_aligned(const float* weights, const float* moments, const T* copies,
                    const float* gradients, int64_t n) {
  return n % 4 == 0 && aligned<4>(weights) && aligned<4>(moments) && aligned<4>(copies) &&
         aligned<4>(gradients);
}

}  // namespace

void check_finite(ScaleState* scale, const float* gradients, int64_t n, cudaStream_t stream) {
  cudaMemsetAsync(&scale->found_inf, 0, sizeof scale->found_inf, stream);
  if (aligned<4>(gradients))
    check_finite_kernel<4><<<flat_blocks(n, 4), kThreads, 0, stream>>>(scale, gradients, n);
  else
    check_finite_kernel<1><<<flat_blocks(n, 1), kThreads, 0, stream>>>(scale, gradients, n);
}

template <class T>
void adam_update(float* weights, float* moments, T* copies, const float* gradients, int64_t n,
                 const StepParams* params, const ScaleState* scale, double beta1, double beta2,
                 double eps, double weight_decay, cudaStream_t stream) {
  const AdamStep step{.beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = weight_decay};
  const auto launch = [&](auto kernel, int v) {
    kernel<<<flat_blocks(n, v), kThreads, 0, stream>>>(weights, moments, copies, gradients, n,
                                                       params, scale, step);
  };
  if (update_aligned(weights, moments, copies, gradients, n))
    launch(adam_kernel<T, 4>, 4);
  else
    launch(adam_kernel<T, 1>, 1);
}

template <class T>
void sgd_update(float* weights, float* moments, T* copies, const float* gradients, int64_t n,
                const StepParams* params, const ScaleState* scale, double momentum,
                double weight_decay, cudaStream_t stream) {
  const SgdStep step{.momentum = momentum, .weight_decay = weight_decay};
  const auto launch = [&](auto kernel, int v) {
    kernel<<<flat_blocks(n, v), kThreads, 0, stream>>>(weights, moments, copies, gradients, n,
                                                       params, scale, step);
  };
  if (update_aligned(weights, moments, copies, gradients, n))
    launch(sgd_kernel<T, 4>, 4);
  else
    launch(sgd_kernel<T, 1>, 1);
}

void finish_step(ScaleState* scale, StepResult* results, const StepParams* params, bool updated,
                 cudaStream_t stream) {
  finish_step_kernel<<<1, 1, 0, stream>>>(scale, results, params, updated);
}

template <class T>
void cast(T* to, const float* from, int64_t n, cudaStream_t stream) {
  launch_cast(to, from, n, stream);
}

template <class T>
void cast_back(float* to, const T* from, int64_t n, cudaStream_t stream) {
  launch_cast(to, from, n, stream);
}

void update_running(const RunningNorm* norms, int count, int max_channels, cudaStream_t stream) {
  if (count == 0) return;
  update_running_kernel<<<dim3((max_channels + kThreads - 1) / kThreads, count), kThreads, 0,
                          stream>>>(norms);
}

template void adam_update(float*, float*, float*, const float*, int64_t, const StepParams*,
                          const ScaleState*, double, double, double, double, cudaStream_t);
template void sgd_update(float*, float*, float*, const float*, int64_t, const StepParams*,
                         const ScaleState*, double, double, cudaStream_t);
template void cast(float*, const float*, int64_t, cudaStream_t);
template void cast_back(float*, const float*, int64_t, cudaStream_t);
template void adam_update(float*, float*, __half*, const float*, int64_t, const StepParams*,
                          const ScaleState*, double, double, double, double, cudaStream_t);
template void sgd_update(float*, float*, __half*, const float*, int64_t, const StepParams*,
                         const ScaleState*, double, double, cudaStream_t);
template void cast(__half*, const float*, int64_t, cudaStream_t);
template void cast_back(float*, const __half*, int64_t, cudaStream_t);
template void adam_update(float*, float*, __nv_bfloat16*, const float*, int64_t, const StepParams*,
                          const ScaleState*, double, double, double, double, cudaStream_t);
template void sgd_update(float*, float*, __nv_bfloat16*, const float*, int64_t, const StepParams*,
                         const ScaleState*, double, double, cudaStream_t);
template void cast(__nv_bfloat16*, const float*, int64_t, cudaStream_t);
template void cast_back(float*, const __nv_bfloat16*, int64_t, cudaStream_t);

}  // namespace engine::kernels

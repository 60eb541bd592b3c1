// The end of a step, over flat arenas: gradient norm, optimizers, averages, loss scale, casts; and
// the running statistics.
#include "kernels/device.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/vector.cuh"

namespace engine::kernels {
namespace {

constexpr int kThreads = 256;

// Calls use(i) for vectors of V elements [i, i + V), then for the rest of n one by one as
// single(i).
template <int V, class Use, class Single>
__device__ __forceinline__ void for_elements(int64_t n, Use use, Single single) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                threads = int64_t{gridDim.x} * blockDim.x;
  const int64_t vectors = n / V;
  for (int64_t i = thread; i < vectors; i += threads) use(i * V);
  for (int64_t i = vectors * V + thread; i < n; i += threads) single(i);
}

// One wave of four blocks on each multiprocessor.
unsigned flat_blocks(int64_t n, int each) {
  const int64_t blocks = (n / each + kThreads - 1) / kThreads;
  return static_cast<unsigned>(
      std::clamp<int64_t>(blocks, 1, int64_t{4} * device_limits().multiprocessors));
}

// Calls use(i) for vectors of four elements [i, i + 4) of n.
template <class Use>
__device__ __forceinline__ void for_vectors(int64_t n, Use use) {
  for_elements<4>(n, use, [](int64_t) {});
}

// ---------------------------------------------------------------- gradient norm

// The sum over the block, in a fixed order; thread 0 gets it.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double sums[kThreads / kWarp];
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0;
  if (threadIdx.x == 0)
    for (const double sum : sums) value += sum;
  __syncthreads();
  return value;
}

// The block that ends last adds up the partial sums of all, always in the same order.
__global__ void __launch_bounds__(kThreads, 4)
    gradient_norm_kernel(ScaleState* scale, NormPartials* partials, const float* gradients,
                         GroupTable groups, int64_t n) {
  follow();
  __shared__ bool last;
  double sum = 0;
  for_vectors(n, [&](int64_t i) {
    const Vector<float, 4> g = load_vector<4>(gradients + i);
    if (groups.groups[groups.of[i / kUpdateBlock]].rate == 0) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += double(g.at[k]) * double(g.at[k]);
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    partials->sums[blockIdx.x] = sum;
    __threadfence();
    last = atomicInc(&partials->done, gridDim.x - 1) == gridDim.x - 1;  // wraps to zero
  }
  __syncthreads();
  if (!last) return;
  sum = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kThreads)
    sum += __ldcg(&partials->sums[block]);
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  note_gradients(*scale, sum);
}

// ---------------------------------------------------------------- optimizers

template <class T, class Step>
__global__ void __launch_bounds__(kThreads, 4)
    update_kernel(UpdateArrays<T> arrays, GroupTable groups, int64_t n, const StepParams* params,
                  const ScaleState* scale, Step step, double clip_norm, double ema_decay) {
  follow();
  constexpr int V = 4, M = Step::kMoments;
  __shared__ Step begun;
  if (scale->found_inf) return;
  if (threadIdx.x == 0) {
    begun = step;
    begin(begun, params->learning_rate, scale->optimizer_steps);
  }
  __syncthreads();
  step = begun;
  const float factor = static_cast<float>(1. / scale->scale) *
                       static_cast<float>(clip_factor(scale->gradient_norm, clip_norm));
  for_vectors(n, [&](int64_t i) {
    // All loads leave before one waits for the group.
    Vector<float, V> w = load_vector<V>(arrays.weights + i), m[M];
    const Vector<float, V> g = load_vector<V>(arrays.gradients + i);
#pragma unroll
    for (int j = 0; j < M; ++j) m[j] = load_vector<V>(arrays.moments + j * n + i);
    const ParameterGroup group = groups.groups[groups.of[i / kUpdateBlock]];
    if (group.rate != 0) {
      const Step s = of_group(step, group);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        float of[M];
#pragma unroll
        for (int j = 0; j < M; ++j) of[j] = m[j].at[k];
        engine::update(w.at[k], of, multiply(g.at[k], factor), s);
#pragma unroll
        for (int j = 0; j < M; ++j) m[j].at[k] = of[j];
      }
      store_vector(arrays.weights + i, w);
#pragma unroll
      for (int j = 0; j < M; ++j) store_vector(arrays.moments + j * n + i, m[j]);
      if (arrays.copies) store_vector(arrays.copies + i, vector_of<T>(w.at));
    }
    if (!arrays.averages) return;
    Vector<float, V> average = load_vector<V>(arrays.averages + i);
#pragma unroll
    for (int k = 0; k < V; ++k) average.at[k] = averaged(average.at[k], w.at[k], ema_decay);
    store_vector(arrays.averages + i, average);
  });
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

__global__ void finish_step_kernel(ScaleState* scale, StepResult* results, const StepParams* params,
                                   bool updated) {
  follow();
  StepResult& result = results[params->result];
  ScaleState s = *scale;
  engine::finish_step(s, result, updated);
  if (updated) *scale = s;
  result.times[static_cast<int>(Mark::end)] = nanoseconds();
  __threadfence_system();  // the host takes the step's number as the sign that the rest is there
  *static_cast<volatile uint64_t*>(&result.step) = params->step;
}

__global__ void note_time_kernel(StepResult* results, const StepParams* params, Mark mark) {
  follow();
  results[params->result].times[static_cast<int>(mark)] = nanoseconds();
}

__global__ void note_step_kernel(uint64_t* step, const StepParams* params) {
  follow();
  *static_cast<volatile uint64_t*>(step) = params->step;
}

// ---------------------------------------------------------------- other arenas

// Calls change(a, b) for every pair of elements of two arrays and writes back what it may have
// changed.
template <bool WriteB, class Change>
__device__ __forceinline__ void change_pairs(float* a, float* b, int64_t n, Change change) {
  for_vectors(n, [&](int64_t i) {
    Vector<float, 4> first = load_vector<4>(a + i), second = load_vector<4>(b + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) change(first.at[k], second.at[k]);
    store_vector(a + i, first);
    if constexpr (WriteB) store_vector(b + i, second);
  });
}

__global__ void __launch_bounds__(kThreads)
    average_kernel(float* averages, const float* values, int64_t n, const ScaleState* scale,
                   double ema_decay) {
  follow();
  if (scale->found_inf) return;
  change_pairs<false>(averages, const_cast<float*>(values), n, [&](float& average, float& value) {
    average = averaged(average, value, ema_decay);
  });
}

__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(float* sums, const float* values, int64_t n) {
  follow();
  change_pairs<false>(sums, const_cast<float*>(values), n,
                      [](float& sum, float& value) { sum += value; });
}

__global__ void __launch_bounds__(kThreads)
    add_accumulated_kernel(float* values, float* sums, int64_t n) {
  follow();
  change_pairs<true>(values, sums, n, [](float& value, float& sum) {
    value += sum;
    sum = 0;
  });
}

__global__ void __launch_bounds__(kThreads) exchange_kernel(float* a, float* b, int64_t n) {
  follow();
  change_pairs<true>(a, b, n, [](float& x, float& y) {
    const float kept = x;
    x = y;
    y = kept;
  });
}

// ---------------------------------------------------------------- casts, running statistics

template <class To, class From, int V>
__global__ void __launch_bounds__(kThreads) cast_kernel(To* to, const From* from, int64_t n) {
  follow();
  for_elements<V>(
      n,
      [&](int64_t i) {
        float value[V];
        to_floats(value, load_vector<V>(from + i));
        store_vector(to + i, vector_of<To>(value));
      },
      [&](int64_t i) { to[i] = from_float<To>(to_float(from[i])); });
}

__global__ void __launch_bounds__(kThreads)
    update_running_kernel(const RunningNorm* norms, const StepParams* params) {
  follow();
  const RunningNorm norm = norms[blockIdx.y];
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= norm.channels) return;
  const int64_t images = norm.images ? norm.images : params->total;
  const float count = static_cast<float>(images * norm.pixels);
  const float unbias = count > 1 ? count / (count - 1) : 1;
  norm.running_mean[c] += norm.momentum * (norm.mean[c] - norm.running_mean[c]);
  norm.running_var[c] += norm.momentum * (unbias * norm.var[c] - norm.running_var[c]);
}

template <int V, class T>
bool aligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * V) == 0;
}

template <class To, class From>
void launch_cast(To* to, const From* from, int64_t n, cudaStream_t stream) {
  constexpr int V = std::min(kFullVector<To>, kFullVector<From>);
  if (n == 0) return;
  if (aligned<V>(to) && aligned<V>(from))
    launch(cast_kernel<To, From, V>, flat_blocks(n, V), kThreads, 0, stream, to, from, n);
  else
    launch(cast_kernel<To, From, 1>, flat_blocks(n, 1), kThreads, 0, stream, to, from, n);
}

}  // namespace

void gradient_norm(ScaleState* scale, NormPartials* partials, const float* gradients,
                   const GroupTable& groups, int64_t n, cudaStream_t stream) {
  const unsigned blocks = std::min<unsigned>(flat_blocks(n, 4), NormPartials::kBlocks);
  launch(gradient_norm_kernel, blocks, kThreads, 0, stream, scale, partials, gradients, groups, n);
}

template <class T, class Step>
void Update<T, Step>::run(const UpdateArrays<T>& arrays, const GroupTable& groups, int64_t n,
                          const StepParams* params, const ScaleState* scale, const Step& step,
                          double clip_norm, double ema_decay, cudaStream_t stream) {
  launch(update_kernel<T, Step>, flat_blocks(n, 4), kThreads, 0, stream, arrays, groups, n, params,
         scale, step, clip_norm, ema_decay);
}

void average(float* averages, const float* values, int64_t n, const ScaleState* scale,
             double ema_decay, cudaStream_t stream) {
  if (n == 0) return;
  launch(average_kernel, flat_blocks(n, 4), kThreads, 0, stream, averages, values, n, scale,
         ema_decay);
}

void accumulate(float* sums, const float* values, int64_t n, cudaStream_t stream) {
  launch(accumulate_kernel, flat_blocks(n, 4), kThreads, 0, stream, sums, values, n);
}

void add_accumulated(float* values, float* sums, int64_t n, cudaStream_t stream) {
  launch(add_accumulated_kernel, flat_blocks(n, 4), kThreads, 0, stream, values, sums, n);
}

void exchange(float* a, float* b, int64_t n, cudaStream_t stream) {
  if (n == 0) return;
  launch(exchange_kernel, flat_blocks(n, 4), kThreads, 0, stream, a, b, n);
}

void finish_step(ScaleState* scale, StepResult* results, const StepParams* params, bool updated,
                 cudaStream_t stream) {
  launch(finish_step_kernel, 1, 1, 0, stream, scale, results, params, updated);
}

void note_time(StepResult* results, const StepParams* params, Mark mark, cudaStream_t stream) {
  launch(note_time_kernel, 1, 1, 0, stream, results, params, mark);
}

void note_step(uint64_t* step, const StepParams* params, cudaStream_t stream) {
  launch(note_step_kernel, 1, 1, 0, stream, step, params);
}

template <class T>
void Casts<T>::from_float(T* to, const float* from, int64_t n, cudaStream_t stream) {
  launch_cast(to, from, n, stream);
}

template <class T>
void Casts<T>::to_float(float* to, const T* from, int64_t n, cudaStream_t stream) {
  launch_cast(to, from, n, stream);
}

void update_running(const RunningNorm* norms, int count, int max_channels, const StepParams* params,
                    cudaStream_t stream) {
  if (count == 0) return;
  launch(update_running_kernel, dim3((max_channels + kThreads - 1) / kThreads, count), kThreads, 0,
         stream, norms, params);
}

template struct Update<float, AdamStep>;
template struct Update<float, SgdStep>;
template struct Update<float, RmspropStep<false>>;
template struct Update<float, RmspropStep<true>>;
template struct Update<__half, AdamStep>;
template struct Update<__half, SgdStep>;
template struct Update<__half, RmspropStep<false>>;
template struct Update<__half, RmspropStep<true>>;
template struct Update<__nv_bfloat16, AdamStep>;
template struct Update<__nv_bfloat16, SgdStep>;
template struct Update<__nv_bfloat16, RmspropStep<false>>;
template struct Update<__nv_bfloat16, RmspropStep<true>>;
template struct Casts<float>;
template struct Casts<__half>;
template struct Casts<__nv_bfloat16>;

}  // namespace engine::kernels

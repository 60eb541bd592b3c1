// Measures the cases of bench_cases.h with CUDA events, every run on a cold L2, and the ceilings of
// the GPU to compare them with.
#include "engine/cuda/bench.h"

#include <algorithm>
#include <memory>

#include "engine/cuda/bench_cases.h"
#include "engine/cuda/cublas.h"
#include "engine/cuda/module.h"
#include "engine/cuda/storage.h"
#include "engine/rng.h"

namespace engine::cuda {

namespace {

constexpr int kWarmup = 2;
constexpr size_t kCopyBytes = size_t{512} << 20;
constexpr int64_t kProductSide = 8192;
constexpr int kCeilingRuns = 10;

struct Freed {
  void operator()(std::byte* p) const noexcept { cudaFree(p); }
};
using DeviceMemory = std::unique_ptr<std::byte, Freed>;

DeviceMemory device_memory(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<size_t>(bytes, 1)));
  check(cudaMemset(memory, 0, bytes));
  return DeviceMemory(static_cast<std::byte*>(memory));
}

// ---------------------------------------------------------------- time

class Timer {
 public:
  Timer(int device, cudaStream_t stream) : stream_(stream) {
    int l2 = 0;
    check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device));
    flushed_ = size_t(l2) * 5 / 2;
    flush_ = device_memory(flushed_);
  }

  // Milliseconds of each run. Enqueued without waiting, so that the host's launches hide behind the
  // writes that empty the cache.
  std::vector<float> time(const std::function<void()>& run, int runs) {
    while (static_cast<int>(start_.size()) < runs) {
      start_.push_back(make_event(cudaEventDefault));
      stop_.push_back(make_event(cudaEventDefault));
    }
    for (int i = 0; i < kWarmup; ++i) run();
    for (int i = 0; i < runs; ++i) {
      check(cudaMemsetAsync(flush_.get(), i, flushed_, stream_));
      check(cudaEventRecord(start_[i].get(), stream_));
      run();
      check(cudaEventRecord(stop_[i].get(), stream_));
    }
    check(cudaStreamSynchronize(stream_));
    std::vector<float> ms(runs);
    for (int i = 0; i < runs; ++i)
      check(cudaEventElapsedTime(&ms[i], start_[i].get(), stop_[i].get()));
    return ms;
  }

  double median_seconds(const std::function<void()>& run, int runs) {
    std::vector<float> ms = time(run, runs);
    std::nth_element(ms.begin(), ms.begin() + runs / 2, ms.end());
    return 1e-3 * ms[runs / 2];
  }

 private:
  cudaStream_t stream_;
  size_t flushed_ = 0;
  DeviceMemory flush_;
  std::vector<Event> start_, stop_;
};

// ---------------------------------------------------------------- what memory holds

// Random values in device memory, repeated over what is to be filled: a kernel's time depends on
// its data through the clock, and numbers must stay finite.
template <class T>
class Pattern {
 public:
  Pattern(float low, float high) : memory_(device_memory(kCount * sizeof(T))) {
    std::vector<T> values(kCount);
    Rng rng({.purpose = purpose("bench pattern")});
    for (T& value : values) value = T(rng.uniform(low, high));
    check(cudaMemcpy(memory_.get(), values.data(), kCount * sizeof(T), cudaMemcpyHostToDevice));
  }

  void fill(void* to, size_t bytes) const {
    for (size_t at = 0; at < bytes; at += kCount * sizeof(T))
      check(cudaMemcpy(static_cast<std::byte*>(to) + at, memory_.get(),
                       std::min(bytes - at, kCount * sizeof(T)), cudaMemcpyDeviceToDevice));
  }

 private:
  static constexpr size_t kCount = size_t{1} << 22;
  DeviceMemory memory_;
};

// The arenas of a training step, as a session allocates them.
class BenchArenas {
 public:
  BenchArenas(const Graph& graph, const Plan& plan) {
    const Plan::Totals t = plan.totals(graph, {});
    const Buffer& image = graph.buffers[graph.image.buffer];
    const size_t images = size_t{kSlots} * plan.options.batch;
    arenas_.parameters = take(t.parameters);
    arenas_.gradients = take(t.gradients);
    arenas_.moments = take(t.optimizer);
    arenas_.groups =
        reinterpret_cast<ParameterGroup*>(take(kMaxParameterGroups * sizeof(ParameterGroup)));
    arenas_.group_of = reinterpret_cast<uint8_t*>(take(plan.layout.trained / kUpdateBlock));
    arenas_.norm_partials = reinterpret_cast<NormPartials*>(take(sizeof(NormPartials)));
    arenas_.weights = t.weight_copies ? take(t.weight_copies) : arenas_.parameters;
    arenas_.state = take(t.state);
    arenas_.channels = take(t.channels);
    arenas_.activations = take(t.activations);
    arenas_.workspace = take(t.workspace);
    arenas_.images =
        reinterpret_cast<uint8_t*>(take(images * image.height * image.width * image.channels));
    arenas_.labels = reinterpret_cast<int32_t*>(take(images * sizeof(int32_t)));
    arenas_.params = reinterpret_cast<StepParams*>(take(sizeof(StepParams)));
    arenas_.scale = reinterpret_cast<ScaleState*>(take(sizeof(ScaleState)));
    arenas_.results = reinterpret_cast<StepResult*>(take(sizeof(StepResult) * kResults));
    visit_storage(plan.options.precision, [&]<class T>() { fill<T>(t); });
    const StepParams params{.step = 1, .learning_rate = 1e-6, .divisor = 1};
    check(cudaMemcpy(arenas_.params, &params, sizeof params, cudaMemcpyHostToDevice));
    const ScaleState scale{.dynamic = 1};
    check(cudaMemcpy(arenas_.scale, &scale, sizeof scale, cudaMemcpyHostToDevice));
    const ParameterGroup group;
    check(cudaMemcpy(arenas_.groups, &group, sizeof group, cudaMemcpyHostToDevice));
    check(cudaMemset(arenas_.group_of, 0, plan.layout.trained / kUpdateBlock));
    check(cudaMemset(arenas_.norm_partials, 0, sizeof(NormPartials)));
  }

  const Arenas& arenas() const { return arenas_; }

 private:
  std::byte* take(size_t bytes) {
    memory_.push_back(device_memory(bytes));
    return memory_.back().get();
  }

  // Variances and moments are positive.
  template <class T>
  void fill(const Plan::Totals& t) {
    const Pattern<float> signed_values(-0.1f, 0.1f), positive(0.5f, 1);
    signed_values.fill(arenas_.parameters, t.parameters);
    signed_values.fill(arenas_.gradients, t.gradients);
    positive.fill(arenas_.moments, t.optimizer);
    positive.fill(arenas_.state, t.state);
    positive.fill(arenas_.channels, t.channels);
    const Pattern<T> stored(-1, 1);  // two halves read as one float are small and finite
    stored.fill(arenas_.activations, t.activations);
    if (t.weight_copies) stored.fill(arenas_.weights, t.weight_copies);
  }

  std::vector<DeviceMemory> memory_;
  Arenas arenas_;
};

// ---------------------------------------------------------------- ceilings

double copy_bytes_per_s(Timer& timer, cudaStream_t stream) {
  const DeviceMemory from = device_memory(kCopyBytes), to = device_memory(kCopyBytes);
  const double seconds = timer.median_seconds(
      [&] {
        check(cudaMemcpyAsync(to.get(), from.get(), kCopyBytes, cudaMemcpyDeviceToDevice, stream));
      },
      kCeilingRuns);
  return 2. * kCopyBytes / seconds;
}

template <class T>
double product_flops_per_s(Cuda& gpu, Timer& timer, Precision precision, const Workspace& space) {
  constexpr int64_t n = kProductSide;
  constexpr size_t bytes = n * n * sizeof(T);
  const DeviceMemory a = device_memory(bytes), b = device_memory(bytes), d = device_memory(bytes);
  const Pattern<T> values(-1, 1);
  values.fill(a.get(), bytes);
  values.fill(b.get(), bytes);
  const auto matrix = [&](const DeviceMemory& m, bool transposed) {
    return Matrix{m.get(), Storage<T>::matrix, n, n, n, transposed};
  };
  const auto product =
      plan_product(gpu, {matrix(a, true), matrix(b, false), matrix(d, false), 0, precision}, space);
  return 2. * n * n * n / timer.median_seconds(product, kCeilingRuns);
}

// ---------------------------------------------------------------- all of it

std::vector<kernels::RunningNorm> norm_entries(const Program& program) {
  std::vector<kernels::RunningNorm> entries;
  const Graph& graph = program.graph;
  for (int n = 0; n < static_cast<int>(graph.norms.size()); ++n) {
    const Norm& norm = graph.norms[n];
    const auto view = program.operand<float>({.at = norm.at, .norm = n});
    entries.push_back({.running_mean = program.master<float>(norm.running_mean),
                       .running_var = program.master<float>(norm.running_var),
                       .mean = view.norm.mean,
                       .var = view.norm.var,
                       .channels = view.channels,
                       .momentum = static_cast<float>(norm.momentum),
                       .unbias = 1});
  }
  return entries;
}

}  // namespace

KernelTimes time_kernels(const Graph& graph, const KernelBench& bench) {
  Cuda gpu(bench.device);
  Timer timer(bench.device, gpu.stream.get());
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, bench.device));
  KernelTimes times{.gpu = properties.name};
  times.copy_bytes_per_s = copy_bytes_per_s(timer, gpu.stream.get());

  const Plan plan = make_plan(graph, bench.plan);
  const BenchArenas memory(graph, plan);
  const Program program(graph, plan, memory.arenas(), {}, plan.options.batch);
  const std::vector<kernels::RunningNorm> entries = norm_entries(program);
  const size_t table_bytes = entries.size() * sizeof(kernels::RunningNorm);
  const DeviceMemory table = device_memory(table_bytes);
  check(cudaMemcpy(table.get(), entries.data(), table_bytes, cudaMemcpyHostToDevice));
  NormEntries norms{reinterpret_cast<const kernels::RunningNorm*>(table.get()),
                    static_cast<int>(entries.size()), 0};
  for (const auto& entry : entries)
    norms.max_channels = std::max(norms.max_channels, entry.channels);

  gpu.algorithms.begin(true);
  times.product_flops_per_s = visit_storage(plan.options.precision, [&]<class T>() {
    return product_flops_per_s<T>(gpu, timer, plan.options.precision, workspace(program));
  });
  const std::vector<KernelCase> cases = kernel_cases(gpu, program, norms, bench.left_out);
  gpu.algorithms.end();
  for (const KernelCase& c : cases)
    times.kernels.push_back({.kernel = c.kernel,
                             .shape = c.shape,
                             .count = c.count,
                             .bytes = c.cost.bytes,
                             .flops = c.cost.flops,
                             .ms = timer.time(c.run, bench.runs)});
  return times;
}

}  // namespace engine::cuda

// Measures a step and its launches with CUDA events, and the ceilings of the GPU to compare them
// with.
#include "engine/cuda/bench.h"

#include <cuda_profiler_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <thread>

#include "engine/cuda/context.h"
#include "engine/cuda/cublas.h"
#include "engine/cuda/module.h"
#include "engine/cuda/storage.h"
#include "engine/rng.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

constexpr int kWarmup = 2;
constexpr size_t kCopyBytes = size_t{512} << 20;
constexpr int64_t kProductSide = 8192;
constexpr int kCeilingRuns = 10;
constexpr int kRounds = 9;  // of the whole step, in each way
constexpr int kSteps = 10;  // of a round of captured steps
constexpr size_t kWorkspaceBytes = size_t{64} << 20;

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

double median(std::vector<float>& ms) {
  std::nth_element(ms.begin(), ms.begin() + ms.size() / 2, ms.end());
  return ms[ms.size() / 2];
}

float milliseconds(const Event& from, const Event& to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from.get(), to.get()));
  return ms;
}

class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream), flush_(device_memory(flushed_)) {}

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
    for (int i = 0; i < runs; ++i) ms[i] = milliseconds(start_[i], stop_[i]);
    return ms;
  }

  double median_seconds(const std::function<void()>& run, int runs) {
    std::vector<float> ms = time(run, runs);
    return 1e-3 * median(ms);
  }

 private:
  cudaStream_t stream_;
  size_t flushed_ = size_t(kernels::device_limits().l2_bytes) * 5 / 2;
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
double product_flops_per_s(Cuda& gpu, Timer& timer, Precision precision) {
  constexpr int64_t n = kProductSide;
  constexpr size_t bytes = n * n * sizeof(T);
  const DeviceMemory a = device_memory(bytes), b = device_memory(bytes), d = device_memory(bytes);
  const Pattern<T> values(-1, 1);
  values.fill(a.get(), bytes);
  values.fill(b.get(), bytes);
  const auto matrix = [&](const DeviceMemory& m, bool transposed) {
    return Matrix{m.get(), Storage<T>::matrix, n, n, n, transposed};
  };
  const DeviceMemory space = device_memory(kWorkspaceBytes);
  gpu.algorithms.begin(true);
  const Launch product = plan_product(
      gpu, "product", {matrix(a, true), matrix(b, false), matrix(d, false), 0, precision},
      {space.get(), kWorkspaceBytes});
  gpu.algorithms.end();
  return 2. * n * n * n / timer.median_seconds(product.enqueue, kCeilingRuns);
}

// ---------------------------------------------------------------- the step

// The median of kRounds times between two events around `run`, which may enqueue much.
double median_ms(cudaStream_t stream, const std::function<void()>& run) {
  const Event start = make_event(cudaEventDefault), stop = make_event(cudaEventDefault);
  std::vector<float> ms(kRounds);
  for (float& round : ms) {
    check(cudaEventRecord(start.get(), stream));
    run();
    check(cudaEventRecord(stop.get(), stream));
    check(cudaEventSynchronize(stop.get()));
    round = milliseconds(start, stop);
  }
  return median(ms);
}

// A stream that runs nothing of what is enqueued until it is released, which waits for all of it. A
// launch that fails releases it too: the stream must not wait for a flag that is gone.
class HeldStream {
 public:
  explicit HeldStream(cudaStream_t stream) : stream_(stream) {
    const auto hold = [](void* open) {
      while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::yield();
    };
    check(cudaLaunchHostFunc(stream, hold, &open_));
  }
  ~HeldStream() {
    open_ = true;
    cudaStreamSynchronize(stream_);
  }
  HeldStream(const HeldStream&) = delete;
  HeldStream& operator=(const HeldStream&) = delete;

  void release() {
    open_ = true;
    check(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_;
  std::atomic<bool> open_ = false;
};

// Runs launches that are enqueued while the stream is held, so that the device does not wait for
// the host. Of `marks` the first is recorded before the first launch; the others behind each
// launch, if there are enough, else the last behind the last.
void run_held(std::span<const OrderedLaunch> launches, cudaStream_t stream,
              std::span<const Event> marks) {
  HeldStream held(stream);
  const bool each = marks.size() > launches.size();
  check(cudaEventRecord(marks.front().get(), stream));
  for (size_t i = 0; i < launches.size(); ++i) {
    launches[i].launch->enqueue();
    if (each) check(cudaEventRecord(marks[i + 1].get(), stream));
  }
  if (!each) check(cudaEventRecord(marks.back().get(), stream));
  held.release();
}

// The times of the launches in the order of the step, medians over the rounds: of each, with an
// event between any two, or (`each` false) of a few together, as the first of them. A stream takes
// only so many launches without blocking the host: they are enqueued a few at a time.
std::vector<double> times_in_order(std::span<const OrderedLaunch> launches, cudaStream_t stream,
                                   bool each) {
  constexpr size_t kFew = 128;
  std::vector<Event> marks(each ? kFew + 1 : 2);
  for (Event& mark : marks) mark = make_event(cudaEventDefault);
  std::vector<std::vector<float>> ms(launches.size(), std::vector<float>(kRounds));
  for (int round = 0; round < kRounds; ++round) {
    for (size_t first = 0; first < launches.size(); first += kFew) {
      const auto few = launches.subspan(first, std::min(kFew, launches.size() - first));
      const std::span marked = std::span<const Event>(marks).first(each ? few.size() + 1 : 2);
      run_held(few, stream, marked);
      for (size_t i = 0; i + 1 < marked.size(); ++i)
        ms[first + i][round] = milliseconds(marked[i], marked[i + 1]);
    }
  }
  std::vector<double> medians;
  for (std::vector<float>& rounds : ms) medians.push_back(median(rounds));
  return medians;
}

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.);
}

// ---------------------------------------------------------------- the launches alone

// Those of one kernel and shape are one entry, which remembers the first of them.
struct Distinct {
  KernelTime time;
  size_t first;
};

std::vector<Distinct> distinct_launches(const KernelBench& bench,
                                        const std::vector<double>& in_order) {
  std::vector<Distinct> found;
  for (size_t i = 0; i < bench.launches.size(); ++i) {
    const auto& [launch, step] = bench.launches[i];
    if (std::find(bench.left_out.begin(), bench.left_out.end(), step) != bench.left_out.end())
      continue;
    if (fmt::format("{} {}", launch->kernel, launch->shape).find(bench.filter) == std::string::npos)
      continue;
    auto known = std::find_if(found.begin(), found.end(), [&](const Distinct& d) {
      return d.time.kernel == launch->kernel && d.time.shape == launch->shape;
    });
    if (known == found.end()) {
      found.push_back(
          {{.kernel = std::string(launch->kernel), .shape = launch->shape, .cost = launch->cost},
           i});
      known = found.end() - 1;
    }
    ++known->time.count;
    known->time.in_order_ms += in_order[i];
  }
  return found;
}

// Memory then holds what it holds in the step.
void run_before(const KernelBench& bench, const Distinct& distinct) {
  for (const OrderedLaunch& l : bench.launches.first(distinct.first)) l.launch->enqueue();
}

std::vector<float> times_alone(const KernelBench& bench, const Distinct& distinct, Timer& timer) {
  return timer.time(bench.launches[distinct.first].launch->enqueue, bench.runs);
}

std::vector<KernelTime> time_filtered(const KernelBench& bench, Timer& timer) {
  std::vector<KernelTime> kernels;
  for (Distinct& d : distinct_launches(bench, std::vector<double>(bench.launches.size()))) {
    run_before(bench, d);
    check(cudaDeviceSynchronize());
    check(cudaProfilerStart());
    d.time.ms = times_alone(bench, d, timer);
    check(cudaProfilerStop());
    kernels.push_back(std::move(d.time));
  }
  require(!kernels.empty(), Failure::usage, "--filter '{}': no launch of the step has that text",
          bench.filter);
  return kernels;
}

Ceilings ceilings_of(Cuda& gpu, Timer& timer, Precision precision) {
  return {copy_bytes_per_s(timer, gpu.stream.get()), visit_storage(precision, [&]<class T>() {
            return product_flops_per_s<T>(gpu, timer, precision);
          })};
}

}  // namespace

Ceilings measure_ceilings(Backend& backend, Precision precision) {
  Cuda& gpu = cuda_of(backend);
  Timer timer(gpu.stream.get());
  return ceilings_of(gpu, timer, precision);
}

KernelTimes time_kernels(Backend& backend, const KernelBench& bench) {
  Cuda& gpu = cuda_of(backend);
  const cudaStream_t stream = gpu.stream.get();
  Timer timer(stream);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, gpu.device));
  KernelTimes times{.gpu = properties.name};
  if (!bench.filter.empty()) {
    times.kernels = time_filtered(bench, timer);
    return times;
  }
  times.ceilings = ceilings_of(gpu, timer, bench.precision);
  times.captured_ms = median_ms(stream,
                                [&] {
                                  for (int i = 0; i < kSteps; ++i) bench.step();
                                }) /
                      kSteps;
  times.enqueued_ms = sum_of(times_in_order(bench.launches, stream, false));
  const std::vector<double> in_order = times_in_order(bench.launches, stream, true);
  times.in_order_ms = sum_of(in_order);
  for (Distinct& d : distinct_launches(bench, in_order)) {
    run_before(bench, d);
    d.time.ms = times_alone(bench, d, timer);
    times.kernels.push_back(std::move(d.time));
  }
  return times;
}

}  // namespace engine::cuda

#include "engine/cuda/trace.h"

#include <nvtx3/nvToolsExt.h>

#include "engine/cuda/context.h"
#include "engine/cuda/cupti.h"

namespace engine::cuda {

class Tracer {
 public:
  std::vector<DeviceRecord> settled(const Cuda& gpu) {
    check(cudaDeviceSynchronize());
    return cupti.take(gpu.device);
  }
  Cupti cupti;
};

std::shared_ptr<Tracer> open_trace() {
  return std::make_shared<Tracer>();
}

DeviceTrace trace_step(Tracer& tracer, Backend& backend, const TraceRun& run) {
  const Cuda& gpu = cuda_of(backend);
  tracer.settled(gpu);  // what warmed up is of no interest
  DeviceTrace trace;
  tracer.cupti.name_launches(true);
  for (size_t i = 0; i < run.launches.size(); ++i) {
    tracer.cupti.begin_launch(static_cast<int>(i));
    run.launches[i].launch->enqueue();
    tracer.cupti.end_launch();
  }
  trace.one_by_one = tracer.settled(gpu);
  tracer.cupti.name_launches(false);
  for (int step = 0; step < run.steps; ++step) run.step();
  trace.steps = tracer.settled(gpu);
  return trace;
}

void in_range(const std::string& name, const std::function<void()>& body) {
  struct Range {
    explicit Range(const std::string& name) { nvtxRangePushA(name.c_str()); }
    ~Range() { nvtxRangePop(); }
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;
  };
  const Range range(name);
  body();
}

}  // namespace engine::cuda

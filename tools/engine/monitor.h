// What training takes of the machine: GPUs by NVML, CPU and memory by /proc, sampled once a second on
// a thread of its own and averaged between two calls of take().
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tools/engine/nvml.h"

namespace engine {

struct MachineUse {
  double process_cores = 0;  // CPU cores that this process kept busy
  double host_cpu = 0;       // share of all cores of the host that were busy, 0 to 1
  double memory_gib = 0;     // resident memory of this process, the largest sample
  // Over the devices: utilisation and temperature are means, memory is that of the fullest device,
  // power the sum. Nothing without a GPU that NVML knows.
  std::optional<GpuReading> gpu;
};

// "GPU 97% 23.1 GiB 412 W 61 °C, CPU 7.9 cores 3.2 GiB"
std::string describe(const MachineUse& use);

struct MonitorOptions {
  std::vector<std::string> bus_ids;  // PCI bus ids of the GPUs to watch: gpu_bus_ids() in device.h
  double interval = 1;               // seconds between samples; 0: take() alone samples
  std::filesystem::path proc = "/proc";
  std::string nvml = "libnvidia-ml.so.1";
  std::function<double()> seconds;  // of a steady clock; empty: the system's
};

class Monitor {
 public:
  explicit Monitor(MonitorOptions options = {});
  ~Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  // Means since the last call, or since the beginning; then starts anew.
  MachineUse take();
  std::string driver() const { return nvml_ ? nvml_->driver() : ""; }

 private:
  struct Ticks {
    double seconds = 0;
    double process = 0;          // CPU seconds of this process
    double busy = 0, total = 0;  // of the host, in its own unit
  };

  Ticks read_ticks() const;
  void sample();  // with the mutex held
  void watch();

  MonitorOptions options_;
  std::optional<Nvml> nvml_;
  std::mutex mutex_;
  std::condition_variable stop_asked_;
  bool stop_ = false;
  Ticks before_;
  int samples_ = 0;
  GpuReading gpu_sum_;  // memory: the largest so far
  double resident_gib_ = 0;
  std::thread thread_;
};

}  // namespace engine

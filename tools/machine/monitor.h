// What training takes of the machine between two calls of take(). CPU time and the GPUs' energy are
// counters; the GPUs' utilisation and the memory are sampled on a thread of their own. NVML tells
// of the GPUs, /proc of the rest.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tools/machine/nvml.h"

namespace engine {

struct MachineUse {
  double process_cores = 0;  // CPU cores that this process kept busy
  double host_cpu = 0;       // share of all cores of the host that were busy, 0 to 1
  double memory_gib = 0;     // resident memory of this process, the largest sample
  double seconds = 0;        // between the two calls
  // All devices together: utilisation and temperature are means, memory is that of the fullest
  // device, power the sum. `joules` is the energy between the two calls: by a device's counter, or
  // its power over time where it has none; 0 where a device tells neither. Nothing without a GPU
  // that NVML knows.
  std::optional<GpuReading> gpu;
};

// "GPU 97% 23.1 GiB 412 W 61 °C, CPU 7.9 cores 3.2 GiB"
std::string describe(const MachineUse& use);

struct MonitorOptions {
  std::vector<std::string> bus_ids;  // PCI bus ids of the GPUs to watch: gpu_bus_ids() in device.h
  double interval = 0.2;             // seconds between samples; 0: no thread
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

  // Returns means over the time since the last call, or since the beginning, and starts anew.
  MachineUse take();
  // Takes a sample, as the thread does at every interval.
  void sample();
  std::string driver() const { return nvml_ ? nvml_->driver() : ""; }

 private:
  struct Ticks {
    double seconds = 0;
    double process = 0;          // CPU seconds of this process
    double busy = 0, total = 0;  // of the host, in its own unit
  };

  Ticks read_ticks() const;
  void read();  // with the mutex held
  void watch();

  MonitorOptions options_;
  std::optional<Nvml> nvml_;
  std::mutex mutex_;
  std::condition_variable stop_asked_;
  bool stop_ = false;
  Ticks before_;
  double sampled_at_;           // by the clock
  double sampled_seconds_ = 0;  // since take()
  GpuReading gpu_sum_;          // times seconds; joules: as they are; memory: the largest so far
  bool silent_ = false;         // a device told neither energy nor power
  std::vector<double> joules_;  // per device, at the last sample
  double resident_gib_ = 0;
  std::thread thread_;
};

}  // namespace engine

#include "tools/machine/nvml.h"

#include <dlfcn.h>

namespace engine {
namespace {

// The part of nvml.h that is used: every function returns 0 for success, and these signatures have
// not changed since they were given their suffixes.
using NvmlDevice = void*;
constexpr int kTemperatureOfGpu = 0;
constexpr int kPeerByNvlink = 2;  // what is asked of a pair; the answer 0 is yes
// The nearest common part of two devices on the PCI bus; the numbers are upper ends.
constexpr unsigned kOneSwitch = 10, kSwitches = 20, kHostBridge = 30, kSocket = 40;

template <class Function>
Function* find(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

struct Nvml::Library {
  struct Utilisation {
    unsigned gpu, memory;  // percent
  };
  struct MemoryInfo {
    unsigned long long total, free, used;  // bytes
  };

  void* handle = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*by_bus_id)(const char*, NvmlDevice*) = nullptr;
  int (*utilisation)(NvmlDevice, Utilisation*) = nullptr;
  int (*memory)(NvmlDevice, MemoryInfo*) = nullptr;
  int (*power)(NvmlDevice, unsigned*) = nullptr;             // milliwatts
  int (*energy)(NvmlDevice, unsigned long long*) = nullptr;  // millijoules
  int (*temperature)(NvmlDevice, int, unsigned*) = nullptr;
  int (*driver)(char*, unsigned) = nullptr;
  int (*peer)(NvmlDevice, NvmlDevice, int, int*) = nullptr;
  int (*ancestor)(NvmlDevice, NvmlDevice, unsigned*) = nullptr;
  bool started = false;

  explicit Library(const char* name) : handle(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
    if (!handle) return;
    init = find<int()>(handle, "nvmlInit_v2");
    shutdown = find<int()>(handle, "nvmlShutdown");
    by_bus_id = find<int(const char*, NvmlDevice*)>(handle, "nvmlDeviceGetHandleByPciBusId_v2");
    utilisation = find<int(NvmlDevice, Utilisation*)>(handle, "nvmlDeviceGetUtilizationRates");
    memory = find<int(NvmlDevice, MemoryInfo*)>(handle, "nvmlDeviceGetMemoryInfo");
    power = find<int(NvmlDevice, unsigned*)>(handle, "nvmlDeviceGetPowerUsage");
    energy =
        find<int(NvmlDevice, unsigned long long*)>(handle, "nvmlDeviceGetTotalEnergyConsumption");
    temperature = find<int(NvmlDevice, int, unsigned*)>(handle, "nvmlDeviceGetTemperature");
    driver = find<int(char*, unsigned)>(handle, "nvmlSystemGetDriverVersion");
    peer = find<int(NvmlDevice, NvmlDevice, int, int*)>(handle, "nvmlDeviceGetP2PStatus");
    ancestor =
        find<int(NvmlDevice, NvmlDevice, unsigned*)>(handle, "nvmlDeviceGetTopologyCommonAncestor");
    started = init && shutdown && by_bus_id && init() == 0;
  }
  ~Library() {
    if (started) shutdown();
    if (handle) dlclose(handle);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
};

std::optional<Nvml> Nvml::open(std::span<const std::string> bus_ids, const char* library) {
  if (bus_ids.empty()) return std::nullopt;
  auto opened = std::make_shared<const Library>(library);
  if (!opened->started) return std::nullopt;
  std::vector<NvmlDevice> devices;
  for (const std::string& id : bus_ids)
    if (NvmlDevice device = nullptr; opened->by_bus_id(id.c_str(), &device) == 0)
      devices.push_back(device);
  if (devices.empty()) return std::nullopt;
  return Nvml(std::move(opened), std::move(devices));
}

GpuReading Nvml::read(size_t device) const {
  GpuReading reading;
  NvmlDevice const at = devices_[device];
  if (Library::Utilisation u{}; library_->utilisation && library_->utilisation(at, &u) == 0)
    reading.utilisation = u.gpu / 100.;
  if (Library::MemoryInfo m{}; library_->memory && library_->memory(at, &m) == 0)
    reading.memory_gib = static_cast<double>(m.used) / 0x1p30;
  if (unsigned milliwatts = 0; library_->power && library_->power(at, &milliwatts) == 0)
    reading.watts = milliwatts / 1000.;
  if (unsigned long long millijoules = 0;
      library_->energy && library_->energy(at, &millijoules) == 0)
    reading.joules = static_cast<double>(millijoules) / 1000.;
  if (unsigned celsius = 0;
      library_->temperature && library_->temperature(at, kTemperatureOfGpu, &celsius) == 0)
    reading.celsius = celsius;
  return reading;
}

std::string Nvml::driver() const {
  char text[96] = {};
  return library_->driver && library_->driver(text, sizeof text) == 0 ? text : "";
}

std::string Nvml::link(size_t a, size_t b) const {
  NvmlDevice const one = devices_[a], other = devices_[b];
  if (int answer = 1;
      library_->peer && library_->peer(one, other, kPeerByNvlink, &answer) == 0 && answer == 0)
    return "NVLink";
  unsigned level = 0;
  if (!library_->ancestor || library_->ancestor(one, other, &level) != 0) return "unknown";
  if (level <= kSwitches) return level <= kOneSwitch ? "PCIe switch" : "PCIe switches";
  if (level <= kHostBridge) return "PCIe host bridge";
  return level <= kSocket ? "PCIe, one socket" : "PCIe, two sockets";
}

}  // namespace engine

// NVIDIA's management library, opened at run time: what a GPU is doing. Where there is no driver
// there are no devices; nothing here is linked, and nothing fails.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace engine {

struct GpuReading {
  double utilisation = 0;  // share of the last sampling period in which a kernel ran, 0 to 1
  double memory_gib = 0;   // in use, by all processes
  double watts = 0;        // some devices: the mean of the last second
  double celsius = 0;
  double joules = 0;  // spent since the driver was loaded
};

class Nvml {
 public:
  // Opens the devices with these PCI bus ids ("0000:1B:00.0"), in this order. Nothing if the
  // library cannot be opened, does not start or knows none of them.
  static std::optional<Nvml> open(std::span<const std::string> bus_ids,
                                  const char* library = "libnvidia-ml.so.1");

  size_t devices() const { return devices_.size(); }
  // What a device does not tell is 0.
  GpuReading read(size_t device) const;
  std::string driver() const;  // "580.82.07"; empty if it does not say
  // What two of the devices speak through: "NVLink", else the lowest part of the PCI bus that they
  // share: "PCIe switch(es)", "PCIe host bridge", "PCIe, one socket", "PCIe, two sockets";
  // "unknown" if it does not say.
  std::string link(size_t a, size_t b) const;

 private:
  struct Library;
  Nvml(std::shared_ptr<const Library> library, std::vector<void*> devices)
      : library_(std::move(library)), devices_(std::move(devices)) {}

  std::shared_ptr<const Library> library_;
  std::vector<void*> devices_;  // NVML's handles
};

}  // namespace engine

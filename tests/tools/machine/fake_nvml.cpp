// A management library for tests, with nvml.h's names and three devices. Each utilisation that is
// asked for is ten points above the last one. The second device does not know its power; only the
// third one knows its energy, which is 50 J more each time. NVLink connects the first two; the
// third hangs on another host bridge, and does not know the second one.
#include <cstring>

extern "C" {

struct Utilisation {
  unsigned gpu, memory;
};
struct MemoryInfo {
  unsigned long long total, free, used;
};

static int started = 0;
static unsigned asked[3] = {};

int nvmlInit_v2() {
  ++started;
  asked[0] = asked[1] = asked[2] = 0;
  return 0;
}
int nvmlShutdown() {
  --started;
  return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  if (started != 1) return 1;  // NVML_ERROR_UNINITIALIZED
  if (std::strcmp(id, "0000:1B:00.0") == 0) return *device = &asked[0], 0;
  if (std::strcmp(id, "0000:43:00.0") == 0) return *device = &asked[1], 0;
  if (std::strcmp(id, "0000:5C:00.0") == 0) return *device = &asked[2], 0;
  return 6;  // NVML_ERROR_NOT_FOUND
}
int nvmlDeviceGetUtilizationRates(void* device, Utilisation* rates) {
  auto* const count = static_cast<unsigned*>(device);
  *rates = {10 * ++*count + (count == &asked[1] ? 50 : 0), 5};
  return 0;
}
int nvmlDeviceGetMemoryInfo(void* device, MemoryInfo* memory) {
  *memory = {141ull << 30, 0, device == &asked[1] ? 24ull << 30 : 16ull << 30};
  return 0;
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  if (device == &asked[1]) return 3;  // NVML_ERROR_NOT_SUPPORTED
  *milliwatts = 412'500;
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  if (device != &asked[2]) return 3;
  *millijoules = 1'000'000 + 50'000 * asked[2];
  return 0;
}
int nvmlDeviceGetTemperature(void* device, int sensor, unsigned* celsius) {
  if (sensor != 0) return 2;
  *celsius = device == &asked[1] ? 70 : 60;
  return 0;
}
int nvmlDeviceGetP2PStatus(void* one, void* other, int asked_for, int* status) {
  const bool linked = one != &asked[2] && other != &asked[2];
  *status = asked_for == 2 && linked ? 0 : 1;
  return 0;
}
int nvmlDeviceGetTopologyCommonAncestor(void* one, void* other, unsigned* level) {
  if (one == &asked[1] || other == &asked[1]) return 3;
  *level = 30;
  return 0;
}
int nvmlSystemGetDriverVersion(char* text, unsigned size) {
  std::strncpy(text, "580.82.07", size);
  return 0;
}
}

// CUPTI, opened when a trace begins: activity records of kernels, copies and fills. Of all CUPTI
// offers these need no privilege.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/cuda/trace.h"

namespace engine::cuda {

struct CuptiLibrary;  // its functions

class Cupti {
 public:
  // Opens the library and records from now on. Throws Error(usage) where it is not found or another
  // profiler holds it.
  Cupti();
  ~Cupti();
  Cupti(const Cupti&) = delete;
  Cupti& operator=(const Cupti&) = delete;

  // While on, records name the launch between whose begin and end this thread enqueued them.
  void name_launches(bool on);
  void begin_launch(int launch);
  void end_launch();

  // What that device has run since the last call, by start; it must be idle.
  std::vector<DeviceRecord> take(int device);

 private:
  std::unique_ptr<CuptiLibrary> library_;
};

}  // namespace engine::cuda

// Work that is captured once and launched as one graph, and all graphs that are still there.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/cuda/handles.h"

namespace engine::cuda {

class Captures {
 public:
  explicit Captures(cudaStream_t stream) : stream_(stream) {}

  // What `body` enqueues on the stream, ready to be launched. It is the caller's.
  std::shared_ptr<const GraphExec> record(const std::function<void()>& body);
  // Those that callers still hold become null. What of them is running ends all the same.
  void destroy() noexcept;

 private:
  cudaStream_t stream_;
  std::vector<std::weak_ptr<GraphExec>> recorded_;
};

}  // namespace engine::cuda

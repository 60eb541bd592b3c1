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

  // What `body` enqueues on the stream, ready to be launched; kept until it is dropped.
  const GraphExec* record(const std::function<void()>& body);
  void drop(const GraphExec* graph) noexcept;
  // Destroys all that are kept; it returns when none of them runs. They are to be dropped still.
  void destroy() noexcept;

 private:
  cudaStream_t stream_;
  std::vector<std::unique_ptr<GraphExec>> recorded_;
};

}  // namespace engine::cuda

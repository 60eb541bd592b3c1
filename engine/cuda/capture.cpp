#include "engine/cuda/capture.h"

#include <utility>

namespace engine::cuda {

namespace {

CapturedGraph capture(cudaStream_t stream, const std::function<void()>& body) {
  // Thread-local: other ranks of this process allocate and capture as they like.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    const CapturedGraph unfinished(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph));
  return CapturedGraph(graph);
}

GraphExec instantiate(const CapturedGraph& graph, cudaStream_t stream) {
  cudaGraphExec_t instance = nullptr;
  check(cudaGraphInstantiate(&instance, graph.get(), 0ull));
  GraphExec exec(instance);
  check(cudaGraphUpload(exec.get(), stream));
  check(cudaStreamSynchronize(stream));
  return exec;
}

}  // namespace

std::shared_ptr<const GraphExec> Captures::record(const std::function<void()>& body) {
  auto graph = std::make_shared<GraphExec>(instantiate(capture(stream_, body), stream_));
  std::erase_if(recorded_, [](const auto& held) { return held.expired(); });
  recorded_.push_back(graph);
  return graph;
}

void Captures::destroy() noexcept {
  for (const auto& held : std::exchange(recorded_, {}))
    if (const auto graph = held.lock()) graph->reset();
}

}  // namespace engine::cuda

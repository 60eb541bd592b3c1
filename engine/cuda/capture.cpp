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

const GraphExec* Captures::record(const std::function<void()>& body) {
  recorded_.push_back(std::make_unique<GraphExec>(instantiate(capture(stream_, body), stream_)));
  return recorded_.back().get();
}

void Captures::drop(const GraphExec* graph) noexcept {
  std::erase_if(recorded_, [=](const auto& kept) { return kept.get() == graph; });
}

void Captures::destroy() noexcept {
  for (const auto& graph : recorded_) graph->reset();
}

}  // namespace engine::cuda

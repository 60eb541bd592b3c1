#include "tools/bench/gradient_stats.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference.h"

namespace engine {
namespace {

// |k0| / rms(dx) of the channels of one slice, whose consumers have all added to G, k0 and k1.
std::vector<double> ratios(const GradientView<float>& view) {
  const std::vector<float> dx = reference::load_gradient(view);
  std::vector<double> squares(view.channels);
  for (size_t i = 0; i < dx.size(); ++i) squares[i % view.channels] += double{dx[i]} * dx[i];
  std::vector<double> result;
  for (int c = 0; c < view.channels; ++c)
    if (squares[c] > 0 && std::isfinite(view.k0[c]))
      result.push_back(std::abs(view.k0[c]) / std::sqrt(squares[c] / double(view.pixels())));
  return result;
}

BufferStats summarise(const std::string& name, std::vector<double> ratios) {
  BufferStats stats{.buffer = name, .channels = static_cast<int>(ratios.size())};
  if (ratios.empty()) return stats;
  std::sort(ratios.begin(), ratios.end());
  const auto first_above = std::upper_bound(ratios.begin(), ratios.end(), kLargeRatio);
  stats.above = static_cast<int>(ratios.end() - first_above);
  stats.largest = ratios.back();
  stats.median = ratios[ratios.size() / 2];
  return stats;
}

}  // namespace

std::vector<BufferStats> gradient_stats(const Graph& graph, Backend& backend,
                                        const PlanOptions& options) {
  Rig device(graph, backend, options);
  const auto reference = make_reference_backend({});
  Rig host(graph, *reference,
           {.batch = options.batch, .backend = BackendKind::reference});  // a place for floats
  device.begin();
  const int steps = static_cast<int>(graph.steps.size());
  for (int i = 0; i < steps; ++i) device.forward(i);

  std::vector<std::vector<double>> found(graph.buffers.size());
  for (int i = steps - 1; i >= 0; --i) {
    const Slice* out = output_of(graph.steps[i]);
    if (out && graph.buffers[out->buffer].normed) {
      host.copy_data(device, out->buffer);
      host.copy_gradient(device, out->buffer);
      host.copy_channels(device);
      if (const Operand* gated = host.program().plan.gated_by[out->buffer])
        host.copy_gate(device, gated->gate);
      const std::vector<double> slice = ratios(host.program().gradient<float>(*out));
      found[out->buffer].insert(found[out->buffer].end(), slice.begin(), slice.end());
    }
    device.backward(i);
  }
  std::vector<BufferStats> stats;
  for (size_t b = 0; b < found.size(); ++b)
    if (graph.buffers[b].normed) stats.push_back(summarise(graph.buffers[b].name, found[b]));
  return stats;
}

}  // namespace engine

#include "engine/arenas.h"

#include <algorithm>

#include "engine/backend.h"

namespace engine {

template <class T>
T* ArenaMemory::take(size_t count) {
  if (count == 0) return nullptr;
  memory_.push_back(backend_->allocate(count * sizeof(T)));
  bytes_ += count * sizeof(T);
  return reinterpret_cast<T*>(memory_.back().get());
}

template <class T>
T* ArenaMemory::take_zeroed(size_t count) {
  T* at = take<T>(count);
  if (at) backend_->clear(at, count * sizeof(T));
  return at;
}

template <class T>
T* ArenaMemory::take_visible(size_t count) {
  if (count == 0) return nullptr;
  memory_.push_back(backend_->allocate_host(count * sizeof(T)));
  T* at = reinterpret_cast<T*>(memory_.back().get());
  std::fill_n(at, count, T{});
  return at;
}

ArenaMemory::ArenaMemory(Backend& backend, const Graph& graph, const ParameterLayout& layout,
                         const Plan::Totals& t, const ArenaOptions& options)
    : backend_(&backend), buckets_(options.buckets) {
  Arenas& a = arenas_;
  const auto zeroed = [&](size_t bytes) { return Untyped{take_zeroed<std::byte>(bytes)}; };
  a.parameters = zeroed(t.parameters);
  a.gradients = zeroed(t.gradients);
  a.accumulated = zeroed(t.accumulated);
  a.moments = zeroed(t.optimizer);
  if (t.averages > 0) {
    a.ema_parameters = zeroed(t.parameters);
    a.ema_state = zeroed(t.state);
  }
  if (t.groups > 0) {
    a.groups = take_zeroed<ParameterGroup>(kMaxParameterGroups);
    a.group_of = take_zeroed<uint8_t>(layout.trained / kUpdateBlock);
    a.norm_partials = take_zeroed<NormPartials>(1);
  }
  a.weights = t.weight_copies > 0 ? zeroed(t.weight_copies) : a.parameters;
  a.state = zeroed(t.state);
  a.channels = zeroed(t.channels);
  a.activations = {take<std::byte>(t.activations)};
  a.workspace = {take<std::byte>(t.workspace)};

  const Buffer& image = graph.buffers[graph.image.buffer];
  const size_t slots = size_t{kSlots} * options.capacity;
  a.images = take_zeroed<uint8_t>(slots * image.height * image.width * image.channels);
  a.labels = take_zeroed<int32_t>(slots);
  if (options.task == Task::labels) a.presence = take_zeroed<Presence>(slots * graph.classes());
  a.records = take_zeroed<ImageRecord>(slots);
  a.mixes = take_zeroed<Mix>(slots);
  a.mean_levels = take_zeroed<int32_t>(options.capacity);
  a.pack = take<uint8_t>(options.pack_bytes);
  const std::vector<double>& weights = options.class_weights;
  a.class_weights = take<double>(weights.size());
  if (!weights.empty())
    backend.upload(a.class_weights, weights.data(), weights.size() * sizeof(double));
  a.params = take_zeroed<StepParams>(1);
  a.scale = take_zeroed<ScaleState>(1);
  a.results = take_visible<StepResult>(kResults);
  a.collectives = take_visible<CollectiveMark>(options.buckets);
  backend.synchronize();
}

}  // namespace engine

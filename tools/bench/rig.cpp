#include "tools/bench/rig.h"

#include <algorithm>
#include <cstring>

#include "engine/initialise.h"
#include "engine/rng.h"

namespace engine {
namespace {

constexpr float kLossScale = 1024;  // of every precision, so that rigs compare

Tensor as_float(const std::vector<float>& values) {
  Tensor tensor(DType::f32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<float>().begin());
  return tensor;
}

std::vector<float> floats_of(const Tensor& tensor) {
  const Tensor wide = convert(tensor, DType::f32);
  const auto values = wide.as<float>();
  return {values.begin(), values.end()};
}

// Twice the same, so that a rig may be begun again.
void random_batch(const Graph& graph, std::vector<uint8_t>& images, std::vector<int32_t>& labels) {
  Rng rng({.purpose = purpose("rig batch")});
  for (uint8_t& value : images) value = static_cast<uint8_t>(rng.below(256));
  for (int32_t& label : labels) label = static_cast<int32_t>(rng.below(graph.classes()));
}

}  // namespace

Rig::Rig(const Graph& graph, Backend& backend, const PlanOptions& options)
    : graph_(graph),
      backend_(backend),
      plan_(make_plan(graph, options)),
      memory_(backend, graph, plan_.layout, plan_.totals(graph, {.moments = 0}),
              {.capacity = options.batch, .buckets = plan_.buckets.size()}),
      program_(graph_, plan_, memory_.arenas(),
               {.mean = {0.5, 0.5, 0.5}, .std = {0.25, 0.25, 0.25}}, options.batch),
      prepared_(backend.prepare(program_, {.timed = false})) {
  backend_.clear(arenas().activations.at, plan_.activations);
  fill_parameters();
}

void Rig::fill_parameters() {
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p) {
    Tensor value = convert(initial_value(graph_, p, 1), DType::f32);
    if (value.shape.size() > 1)  // a weight; its random values are as good in any order
      value = convert(convert(value, storage_type(plan_.options.precision)), DType::f32);
    backend_.upload(program_.master<float>(p), value.bytes.data(), value.bytes.size());
    backend_.synchronize();
  }
  enqueue(prepared_.copy_weights);
  const ScaleState scale{.scale = kLossScale};
  backend_.upload(arenas().scale, &scale, sizeof scale);
  backend_.synchronize();
}

void Rig::begin() {
  const Buffer& image = graph_.buffers[graph_.image.buffer];
  const int batch = plan_.options.batch;
  std::vector<uint8_t> images(size_t(batch) * image.height * image.width * image.channels);
  std::vector<int32_t> labels(batch);
  random_batch(graph_, images, labels);
  backend_.upload_batch(program_, 0, {images.data(), labels.data(), batch});
  backend_.wait_uploaded(0);
  backend_.set_params(program_, {.seed = 1, .step = 1, .divisor = double(batch)});
  enqueue(prepared_.images);
  enqueue(prepared_.clear);
}

// ---------------------------------------------------------------- reading and copying

std::vector<float> Rig::read(const Range& range) const {
  Tensor raw(storage_type(plan_.options.precision),
             {static_cast<int64_t>(range.bytes / element())});
  backend_.download(raw.bytes.data(), arenas().activations.at + range.offset, range.bytes);
  return floats_of(raw);
}

std::vector<float> Rig::slice_of(const std::vector<Range>& ranges, const Slice& slice) const {
  const std::vector<float> all = read(ranges[slice.buffer]);
  const size_t pitch = graph_.buffers[slice.buffer].channels;
  if (size_t(slice.channels()) == pitch) return all;
  std::vector<float> values;
  values.reserve(all.size() / pitch * slice.channels());
  for (auto pixel = all.begin(); pixel != all.end(); pixel += pitch)
    values.insert(values.end(), pixel + slice.c0, pixel + slice.c1);
  return values;
}

std::vector<float> Rig::vector(const float* at, int64_t count) const {
  std::vector<float> values(count);
  backend_.download(values.data(), at, values.size() * sizeof(float));
  return values;
}

void Rig::put(void* to, std::span<const float> values) {
  backend_.upload(to, values.data(), values.size_bytes());
  backend_.synchronize();
}

void Rig::copy(const Rig& from, const std::vector<Range>& theirs, const std::vector<Range>& ours,
               int buffer) {
  const Tensor stored =
      convert(as_float(from.read(theirs[buffer])), storage_type(plan_.options.precision));
  backend_.upload(arenas().activations.at + ours[buffer].offset, stored.bytes.data(),
                  stored.bytes.size());
  backend_.synchronize();
}

void Rig::copy_channels(const Rig& from) {
  const int64_t count = 4 * plan_.layout.channels;
  put(arenas().channels.at, from.vector(from.arenas().channels.as<float>(), count));
}

void Rig::copy_gate(const Rig& from, int gate) {
  const int64_t count = gate_elements(graph_.gates[gate], plan_.options.batch);
  put(program_.gate<float>(gate).gate, from.vector(from.program_.gate<float>(gate).gate, count));
}

void Rig::copy_parameter_gradient(const Rig& from, int parameter) {
  put(program_.dparameter<float>(parameter),
      from.vector(from.program_.dparameter<float>(parameter),
                  elements(graph_.parameters[parameter].shape)));
}

}  // namespace engine

// Sizes in one graph and batch that forms and needs ask for, in elements or bytes.
#pragma once

#include "engine/graph.h"
#include "engine/precision.h"
#include "kernels/tiles.h"

namespace engine {

struct StepSizes {
  const Graph& graph;
  int batch;
  Precision precision;

  int64_t pixels(const Slice& s) const {
    const Buffer& b = graph.buffers[s.buffer];
    return int64_t{batch} * b.height * b.width;
  }
  int64_t elements(const Slice& s) const { return pixels(s) * s.channels(); }
  size_t dense(const Slice& s) const { return elements(s) * storage_size(precision); }
  size_t partials(const Slice& s) const {
    return size_t(partial_rows(pixels(s), s.channels())) * kPartialsPerChannel * s.channels() *
           real_size(precision);
  }
  // The slice lies in memory in whole packs of eight channels, 16 bytes in 16-bit types.
  bool in_packs(const Slice& s) const {
    constexpr int kPack = 8;
    return s.c0 % kPack == 0 && s.channels() % kPack == 0 &&
           graph.buffers[s.buffer].channels % kPack == 0;
  }
  // The slice is the whole of its buffer.
  bool whole(const Slice& s) const { return s.channels() == graph.buffers[s.buffer].channels; }
  // The gradient of the slice is completed on load, from x.
  bool completed_on_load(const Slice& s) const {
    return graph.buffers[s.buffer].normed || gated(s.buffer);
  }
  // It is a sum's gradient, which whoever reads it scales.
  bool scaled(const Slice& s) const { return scaled_operand(graph, s.buffer) != nullptr; }
  // It must be made dense before a library reads it.
  bool gradient_in_parts(const Slice& s) const { return completed_on_load(s) || !whole(s); }
  bool gated(int buffer) const { return engine::gated(graph, buffer); }
};

}  // namespace engine

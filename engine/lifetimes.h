// When the ranges of the activation arena are in use, and where they lie: two that are in use at
// the same time never overlap.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

namespace engine {

struct Range {
  size_t offset = 0, bytes = 0;  // bytes 0: absent
};

// The instants of a training step: the forward of every step of the graph, then the backward of
// every step in reverse, and ahead of each backward an instant at which outputs are computed again.
struct StepClock {
  int steps = 0;
  int forward(int step) const { return step; }
  int recomputation(int before) const { return 3 * steps - 2 * (before + 1); }
  int before(int recomputation) const { return (3 * steps - recomputation) / 2 - 1; }
  int backward(int step) const { return recomputation(step) + 1; }
  int end() const { return 3 * steps; }  // what is read after the step
};

// A span of time, both ends included; it begins as an empty one.
struct Life {
  int from = std::numeric_limits<int>::max(), to = -1;
  bool empty() const { return to < from; }
  void use(int time) { from = std::min(from, time), to = std::max(to, time); }
  bool meets(const Life& other) const { return from <= other.to && other.from <= to; }
};

// A range in memory. What is computed again lives twice, at the same address.
struct Tenant {
  Range* range = nullptr;
  Life life, again;
  bool meets(const Tenant& other) const {
    return life.meets(other.life) || life.meets(other.again) || again.meets(other.life) ||
           again.meets(other.again);
  }
  // Its contents are kept in between.
  Tenant joined() const {
    return {range, {std::min(life.from, again.from), std::max(life.to, again.to)}, {}};
  }
};

// Gives every range an offset and returns the bytes of the arena. Drops tenants of no bytes or no
// life.
size_t assign_offsets(std::vector<Tenant>& tenants);

// The bytes in use at every instant.
std::vector<size_t> bytes_in_use(const std::vector<Tenant>& tenants, const StepClock& clock);

}  // namespace engine

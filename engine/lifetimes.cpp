#include "engine/lifetimes.h"

namespace engine {

namespace {

constexpr size_t kAlignment = 256;  // bytes; what cudaMalloc gives and what vector loads want

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

// Places the largest first, each at the lowest offset that is free for its whole life.
size_t assign_offsets(std::vector<Tenant>& tenants) {
  std::erase_if(tenants, [](const Tenant& t) { return t.range->bytes == 0 || t.life.empty(); });
  std::stable_sort(tenants.begin(), tenants.end(), [](const Tenant& a, const Tenant& b) {
    return a.range->bytes > b.range->bytes;
  });
  size_t peak = 0;
  std::vector<const Tenant*> neighbours;
  for (size_t i = 0; i < tenants.size(); ++i) {
    Tenant& t = tenants[i];
    neighbours.clear();
    for (size_t j = 0; j < i; ++j)
      if (tenants[j].meets(t)) neighbours.push_back(&tenants[j]);
    std::sort(neighbours.begin(), neighbours.end(),
              [](const Tenant* a, const Tenant* b) { return a->range->offset < b->range->offset; });
    size_t offset = 0;
    for (const Tenant* n : neighbours) {
      if (offset + t.range->bytes <= n->range->offset) break;
      offset = std::max(offset, aligned(n->range->offset + n->range->bytes));
    }
    t.range->offset = offset;
    peak = std::max(peak, offset + t.range->bytes);
  }
  return aligned(peak);
}

std::vector<size_t> bytes_in_use(const std::vector<Tenant>& tenants, const StepClock& clock) {
  std::vector<size_t> bytes(clock.end() + 1);
  for (const Tenant& t : tenants)
    for (const Life& life : {t.life, t.again})
      for (int time = life.from; time <= life.to; ++time) bytes[time] += t.range->bytes;
  return bytes;
}

}  // namespace engine

#include "tools/bench/records.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "engine/error.h"

namespace engine {
namespace {

std::string text_of(std::span<const OrderedLaunch> launches, int i) {
  return fmt::format("launch {} ({} {})", i, launches[i].launch->kernel, launches[i].launch->shape);
}

struct Expected {
  int launch;
  std::string name;
};

// The kernels of a step on each of its streams, as the launches showed them one by one.
struct Order {
  std::vector<Expected> layers, beside;
};

Order order_of(std::span<const OrderedLaunch> launches, const std::vector<DeviceRecord>& records) {
  Order order;
  for (const DeviceRecord& r : records) {
    require(r.launch >= 0 && r.launch < static_cast<int>(launches.size()), Failure::internal,
            "a trace of single launches: no launch enqueued {}", r.name);
    const bool beside = r.stream != records.front().stream;
    std::vector<Expected>& stream = beside ? order.beside : order.layers;
    require(stream.empty() || stream.back().launch <= r.launch, Failure::internal,
            "a trace of single launches: {} runs after {}", text_of(launches, r.launch),
            text_of(launches, stream.empty() ? 0 : stream.back().launch));
    stream.push_back({r.launch, r.name});
  }
  require(!order.layers.empty(), Failure::internal, "a trace of single launches is empty");
  return order;
}

// One stream of a step, as far as its records have come.
struct Cursor {
  const std::vector<Expected>& expected;
  TraceStream stream;
  size_t at = 0;

  bool done() const { return at == expected.size(); }
  bool takes(const DeviceRecord& r) const { return !done() && expected[at].name == r.name; }
  std::string next(std::span<const OrderedLaunch> launches) const {
    return done()
               ? "nothing"
               : fmt::format("{} of {}", expected[at].name, text_of(launches, expected[at].launch));
  }
};

}  // namespace

std::vector<LaunchRecords> match_records(std::span<const OrderedLaunch> launches,
                                         const DeviceTrace& trace, int steps) {
  const Order order = order_of(launches, trace.one_by_one);
  std::vector<LaunchRecords> matched;
  Cursor layers{order.layers, kLayersStream}, beside{order.beside, kBesideStream};
  LaunchRecords step(launches.size());
  for (const DeviceRecord& r : trace.steps) {
    if (!r.captured) continue;
    Cursor* cursor = layers.takes(r) ? &layers : beside.takes(r) ? &beside : nullptr;
    require(cursor != nullptr, Failure::internal,
            "step {} of the trace: {} ran where {} was to come, or beside the layers {}",
            matched.size(), r.name, layers.next(launches), beside.next(launches));
    std::vector<DeviceRecord>& of_launch = step[cursor->expected[cursor->at++].launch];
    of_launch.push_back(r);
    of_launch.back().stream = cursor->stream;
    if (!layers.done() || !beside.done()) continue;
    matched.push_back(std::exchange(step, LaunchRecords(launches.size())));
    layers.at = beside.at = 0;
  }
  require(layers.at == 0 && beside.at == 0 && static_cast<int>(matched.size()) == steps,
          Failure::internal, "the trace of {} steps ends in step {}, where {} was to come", steps,
          matched.size(), layers.next(launches));
  return matched;
}

}  // namespace engine

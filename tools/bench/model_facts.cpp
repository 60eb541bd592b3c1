#include "tools/bench/model_facts.h"

#include <fmt/format.h>

namespace engine {

int64_t multiply_accumulates(const Graph& g) {
  int64_t macs = 0;
  for (const Step& step : g.steps) {
    if (const auto* conv = std::get_if<Conv>(&step)) {
      const Buffer& out = g.buffers[conv->out.buffer];
      macs += elements(g.parameters[conv->weight].shape) * out.height * out.width;
    } else if (const auto* se = std::get_if<SqueezeExcite>(&step)) {
      macs += elements(g.parameters[se->reduce_weight].shape) +
              elements(g.parameters[se->expand_weight].shape);
    }
  }
  return macs;
}

std::vector<std::pair<std::string, size_t>> memory_rows(const Plan::Totals& t) {
  std::vector<std::pair<std::string, size_t>> rows = {
      {"parameters", t.parameters},    {"gradients", t.gradients},
      {"accumulated", t.accumulated},  {"optimizer", t.optimizer + t.groups},
      {"averages", t.averages},        {"weight_copies", t.weight_copies},
      {"running_statistics", t.state}, {"channel_vectors", t.channels},
      {"activations", t.activations},  {"workspace", t.workspace},
      {"staging", t.staging}};
  std::erase_if(rows, [](const auto& row) { return row.second == 0; });
  return rows;
}

std::string memory_table(const Plan::Totals& totals) {
  std::string text;
  for (const auto& [name, bytes] : memory_rows(totals))
    text += fmt::format("  {:<20}{:>10.1f} MiB\n", name, double(bytes) / 0x1p20);
  return text +
         fmt::format("  {:<20}{:>10.1f} MiB, and what driver and libraries take for themselves\n",
                     "total", double(totals.sum()) / 0x1p20);
}

}  // namespace engine

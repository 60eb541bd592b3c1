#include "tools/bench/profile_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "io/files/json.h"
#include "tools/bench/gaps.h"
#include "tools/bench/model_facts.h"

namespace engine {
namespace {

std::string key_of(const ProfiledLaunch& l, GroupBy by) {
  switch (by) {
    case GroupBy::kind: return std::string(l.kind);
    case GroupBy::layer: return l.layer;
    case GroupBy::phase: return std::string(name_of(l.phase));
  }
  return {};
}

std::string table(const StepProfile& p, std::string_view title, GroupBy by, int rows) {
  const std::vector<ProfileGroup> groups = groups_of(p, by);
  double total = 0;
  for (const ProfileGroup& g : groups) total += g.ms;
  std::string text = fmt::format("\n  {:<44}{:>9}{:>8}{:>10}{:>9}{:>10}{:>9}\n", title, "ms",
                                 "share", "launches", "kernels", "mean us", "gaps ms");
  for (size_t i = 0; i < groups.size() && (rows == 0 || static_cast<int>(i) < rows); ++i) {
    const ProfileGroup& g = groups[i];
    text +=
        fmt::format("  {:<44}{:>9.3f}{:>7.1f}%{:>10}{:>9}{:>10.1f}{:>9.3f}\n", g.name, g.ms,
                    100 * g.ms / total, g.launches, g.kernels, 1e3 * g.ms / g.launches, g.gap_ms);
  }
  return text;
}

nlohmann::ordered_json groups_json(const StepProfile& p, GroupBy by) {
  auto json = nlohmann::ordered_json::array();
  for (const ProfileGroup& g : groups_of(p, by))
    json.push_back({{"name", g.name},
                    {"ms", g.ms},
                    {"launches", g.launches},
                    {"kernels", g.kernels},
                    {"mean_us", 1e3 * g.ms / g.launches},
                    {"gap_ms", g.gap_ms},
                    {"roofline_ms", g.least_ms}});
  return json;
}

// ---------------------------------------------------------------- the trace

enum Track { layers = 1, launches_stream, beside_stream };

nlohmann::ordered_json named_track(Track track, std::string_view name) {
  return {{"ph", "M"},
          {"name", "thread_name"},
          {"pid", 0},
          {"tid", static_cast<int>(track)},
          {"args", {{"name", name}}}};
}

nlohmann::ordered_json slice(Track track, std::string_view name, double start_ms, double end_ms) {
  return {{"ph", "X"},
          {"name", name},
          {"pid", 0},
          {"tid", static_cast<int>(track)},
          {"ts", 1e3 * start_ms},
          {"dur", 1e3 * (end_ms - start_ms)}};
}

// Launches of one layer and direction, one after the other, are one slice.
void add_layer_slices(nlohmann::ordered_json& events, const StepProfile& p) {
  const ProfiledLaunch* open = nullptr;
  double start = 0, end = 0;
  const auto close = [&] {
    if (open)
      events.push_back(
          slice(layers, fmt::format("{}, {}", open->layer, name_of(open->phase)), start, end));
  };
  for (const TimelineSlice& s : p.traced.timeline) {
    if (s.beside) continue;
    const ProfiledLaunch& l = p.traced.launches[s.launch];
    if (!open || open->layer != l.layer || open->phase != l.phase) {
      close();
      open = &l;
      start = s.start_ms;
    }
    end = s.start_ms + s.ms;
  }
  close();
}

}  // namespace

std::vector<ProfileGroup> groups_of(const StepProfile& p, GroupBy by) {
  std::vector<ProfileGroup> groups;
  for (const ProfiledLaunch& l : p.traced.launches) {
    const std::string key = key_of(l, by);
    auto at = std::find_if(groups.begin(), groups.end(),
                           [&](const ProfileGroup& g) { return g.name == key; });
    if (at == groups.end()) at = groups.insert(at, {.name = key});
    ++at->launches;
    at->kernels += l.kernels;
    at->ms += l.ms;
    at->gap_ms += l.gap_ms;
    at->least_ms += least_ms(p.ceilings, l.cost);
  }
  if (by != GroupBy::phase)
    std::stable_sort(groups.begin(), groups.end(),
                     [](const ProfileGroup& a, const ProfileGroup& b) { return a.ms > b.ms; });
  return groups;
}

std::string profile_text(const StepProfile& p, int rows) {
  int kernels = 0;
  for (const ProfiledLaunch& l : p.traced.launches) kernels += l.kernels;
  return fmt::format("{} launches, {} kernels; a step of {:.3f} ms traced, {:.3f} ms untraced\n",
                     p.traced.launches.size(), kernels, p.traced.ms, p.untraced.ms) +
         table(p, "kind", GroupBy::kind, 0) + table(p, "direction", GroupBy::phase, 0) +
         table(p, rows > 0 ? fmt::format("layer, the {} longest", rows) : "layer", GroupBy::layer,
               rows) +
         fmt::format("\n  memory\n{}", memory_table(p.memory));
}

nlohmann::ordered_json profile_json(const StepProfile& p) {
  nlohmann::ordered_json json = {{"system", "engine"},
                                 {"hardware", p.hardware},
                                 {"model", p.bench.model},
                                 {"batch_size", p.bench.batch},
                                 {"precision", name_of(p.precision)},
                                 {"image_size", p.bench.image_size},
                                 {"classes", p.bench.classes},
                                 {"ranks", p.ranks},
                                 {"threads", p.threads},
                                 {"steps", p.bench.steps},
                                 {"ms_untraced", p.untraced.ms},
                                 {"ms_traced", p.traced.ms},
                                 {"launches", p.traced.launches.size()},
                                 {"gaps", gap_json(p)},
                                 {"by_kind", groups_json(p, GroupBy::kind)},
                                 {"by_direction", groups_json(p, GroupBy::phase)},
                                 {"by_layer", groups_json(p, GroupBy::layer)}};
  for (const auto& [name, bytes] : memory_rows(p.memory))
    json["memory_mib"][name] = double(bytes) / 0x1p20;
  return json;
}

std::string profile_csv(const StepProfile& p) {
  std::string text =
      "launch,layer,direction,kind,kernel,shape,kernels,ms,gap_ms,roofline_ms,bytes,flops,"
      "gb_per_s,tflop_per_s,beside\n";
  for (size_t i = 0; i < p.traced.launches.size(); ++i) {
    const ProfiledLaunch& l = p.traced.launches[i];
    const double seconds = 1e-3 * l.ms;
    const auto rate = [&](double amount) { return seconds > 0 ? amount / seconds : 0; };
    text += fmt::format(
        "{},\"{}\",{},{},\"{}\",\"{}\",{},{:.6f},{:.6f},{:.6f},{:.0f},{:.0f},{:.1f}"
        ",{:.3f},{}\n",
        i, l.layer, name_of(l.phase), l.kind, l.kernel, l.shape, l.kernels, l.ms, l.gap_ms,
        least_ms(p.ceilings, l.cost), l.cost.bytes, l.cost.flops, rate(l.cost.bytes) / 1e9,
        rate(l.cost.flops) / 1e12, l.beside ? 1 : 0);
  }
  return text;
}

std::string chrome_trace(const StepProfile& p) {
  nlohmann::ordered_json events = {named_track(layers, "layers"),
                                   named_track(launches_stream, "launches")};
  bool beside = false;
  for (const TimelineSlice& s : p.traced.timeline) {
    const ProfiledLaunch& l = p.traced.launches[s.launch];
    beside |= s.beside;
    nlohmann::ordered_json event =
        slice(s.beside ? beside_stream : launches_stream, s.name, s.start_ms, s.start_ms + s.ms);
    event["args"] = {{"launch", s.launch}, {"kernel", l.kernel},    {"shape", l.shape},
                     {"layer", l.layer},   {"bytes", l.cost.bytes}, {"flops", l.cost.flops}};
    events.push_back(std::move(event));
  }
  if (beside) events.push_back(named_track(beside_stream, "sums over the ranks"));
  add_layer_slices(events, p);
  const nlohmann::ordered_json trace = {{"displayTimeUnit", "ms"},
                                        {"traceEvents", std::move(events)}};
  return print_json(trace) + '\n';
}

}  // namespace engine

#include "tools/bench/gaps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <utility>

namespace engine {
namespace {

constexpr double kAllowed = 0.03;  // of the step, that the parts may miss

bool is_of_ranks(const ProfiledLaunch& l) {
  return l.kind == "all-reduce" || l.kind == "shared norms";
}

// The wait for the sums is in front of the mark behind it.
bool follows_sums(const ProfiledLaunch& l) {
  return l.kernel == "note_time" && l.shape == "reduced";
}

double exposed_ms(const StepProfile& p) {
  if (p.ranks == 1) return 0;
  // What is not beside the layers stands between them: on a host all of it.
  double ms = p.backend == BackendKind::cuda ? p.untraced.joining_ms : 0;
  for (const ProfiledLaunch& l : p.traced.launches) ms += is_of_ranks(l) && !l.beside ? l.ms : 0;
  return ms;
}

double percent(double part, double whole) {
  return whole > 0 ? 100 * part / whole : 0;
}

std::string row(std::string_view name, double ms, double step_ms, std::string_view note = "") {
  std::string text = fmt::format("  {:<26}{:>10.3f}{:>8.1f}%", name, ms, percent(ms, step_ms));
  if (!note.empty()) text += fmt::format("   {}", note);
  return text + '\n';
}

std::string step_text(const StepProfile& p, const StepGaps& g) {
  std::string text = fmt::format(
      "{}, batch {}, {}, {} rank{}: {}\n"
      "ceilings measured here: copies {:.1f} GB/s, products {:.3g} TFLOP/s\n\n"
      "  {:<26}{:>10}{:>9}\n",
      p.bench.model, p.bench.batch, name_of(p.precision), p.ranks, p.ranks == 1 ? "" : "s",
      p.hardware, p.ceilings.copy_bytes_per_s / 1e9, p.ceilings.product_flops_per_s / 1e12,
      "the gap of a step", "ms", "share");
  text += row("roofline", g.roofline_ms, g.step_ms, "bytes and flops at these ceilings");
  text += row("inefficiency", g.inefficiency_ms, g.step_ms, "busy beyond that");
  text += row("gaps between launches", g.gaps_ms, g.step_ms,
              p.backend == BackendKind::cuda
                  ? fmt::format("less {:.3f} ms that tracing adds to a step", g.tracing_ms)
                  : "");
  text += row("exposed communication", g.exposed_ms, g.step_ms);
  text += row("waiting for data", g.waiting_ms, g.step_ms, "synthetic: parameters alone");
  text += row("not accounted", g.missed_ms(), g.step_ms,
              g.adds_up() ? "" : fmt::format("MORE than {:.0f}%", 100 * kAllowed));
  return text + row("step", g.step_ms, g.step_ms, "untraced");
}

std::string layers_text(const StepProfile& p, const StepGaps& g) {
  std::string text = fmt::format("\n  {:<44}{:>9}{:>10}{:>10}{:>9}\n", "ten worst layers", "ms",
                                 "roofline", "beyond", "of step");
  for (const LayerGap& l : worst_layers(p, 10))
    text += fmt::format("  {:<44}{:>9.3f}{:>10.3f}{:>10.3f}{:>8.1f}%\n", l.layer, l.ms, l.least_ms,
                        l.lost_ms(), percent(l.lost_ms(), g.step_ms));
  return text;
}

std::string sums_text(const StepProfile& p) {
  const SumGaps s = sum_gaps(p);
  const auto part = [&](std::string_view name, double ms, std::string_view note) {
    return row(name, ms, s.alone_ms, note);
  };
  return fmt::format("\n  {:<26}{:>10}{:>9}\n", "all-reduce alone", "ms", "share") +
         part("at the bus rate", s.at_rate_ms,
              fmt::format("{:.1f} MiB in {} bucket{}, {:.2f} GB/s in the fastest", s.bytes / 0x1p20,
                          p.buckets.size(), p.buckets.size() == 1 ? "" : "s",
                          s.bus_bytes_per_s / 1e9)) +
         part("latency, slower buckets", s.alone_ms - s.at_rate_ms, "") +
         part("alone", s.alone_ms, "one after the other") +
         part("hidden by the backward", std::max(0., s.alone_ms - s.exposed_ms), "") +
         part("exposed in the step", s.exposed_ms, "");
}

}  // namespace

bool StepGaps::adds_up() const {
  return std::abs(missed_ms()) <= kAllowed * step_ms;
}

StepGaps step_gaps(const StepProfile& p) {
  StepGaps g{.step_ms = p.untraced.ms,
             .exposed_ms = exposed_ms(p),
             .waiting_ms = p.untraced.waiting_ms,
             .tracing_ms = std::max(0., p.traced.ms - p.untraced.marked_ms)};
  double busy = 0, idle = 0;
  for (const ProfiledLaunch& l : p.traced.launches) {
    if (l.beside || is_of_ranks(l)) continue;
    g.roofline_ms += least_ms(p.ceilings, l.cost);
    busy += l.ms;
    if (p.ranks == 1 || !follows_sums(l)) idle += l.gap_ms;
  }
  g.inefficiency_ms = busy - g.roofline_ms;
  g.gaps_ms = std::max(0., idle - g.tracing_ms);
  return g;
}

std::vector<LayerGap> worst_layers(const StepProfile& p, size_t count) {
  std::map<std::string, LayerGap> sums;
  for (const ProfiledLaunch& l : p.traced.launches) {
    if (l.beside || is_of_ranks(l)) continue;
    LayerGap& sum = sums[l.layer];
    sum.layer = l.layer;
    sum.ms += l.ms;
    sum.least_ms += least_ms(p.ceilings, l.cost);
  }
  std::vector<LayerGap> layers;
  for (auto& [name, layer] : sums) layers.push_back(std::move(layer));
  std::stable_sort(layers.begin(), layers.end(),
                   [](const LayerGap& a, const LayerGap& b) { return a.lost_ms() > b.lost_ms(); });
  layers.resize(std::min(count, layers.size()));
  return layers;
}

SumGaps sum_gaps(const StepProfile& p) {
  SumGaps s{.exposed_ms = exposed_ms(p)};
  const double carried = 2. * (p.ranks - 1) / p.ranks;  // of each byte, over the wires of a rank
  for (const BucketTime& b : p.buckets) {
    s.bytes += b.bytes;
    s.alone_ms += b.ms;
    s.bus_bytes_per_s = std::max(s.bus_bytes_per_s, 1e3 * carried * b.bytes / b.ms);
  }
  if (s.bus_bytes_per_s > 0) s.at_rate_ms = 1e3 * carried * s.bytes / s.bus_bytes_per_s;
  return s;
}

std::string gap_text(const StepProfile& p) {
  const StepGaps g = step_gaps(p);
  return step_text(p, g) + layers_text(p, g) + (p.ranks > 1 ? sums_text(p) : "");
}

nlohmann::ordered_json gap_json(const StepProfile& p) {
  const StepGaps g = step_gaps(p);
  nlohmann::ordered_json json = {{"step_ms", g.step_ms},
                                 {"roofline_ms", g.roofline_ms},
                                 {"inefficiency_ms", g.inefficiency_ms},
                                 {"gaps_ms", g.gaps_ms},
                                 {"exposed_all_reduce_ms", g.exposed_ms},
                                 {"waiting_ms", g.waiting_ms},
                                 {"not_accounted_ms", g.missed_ms()},
                                 {"adds_up", g.adds_up()},
                                 {"tracing_ms", g.tracing_ms},
                                 {"ceiling_gb_per_s", p.ceilings.copy_bytes_per_s / 1e9},
                                 {"ceiling_tflop_per_s", p.ceilings.product_flops_per_s / 1e12}};
  for (const LayerGap& l : worst_layers(p, 10))
    json["worst_layers"].push_back({{"layer", l.layer},
                                    {"ms", l.ms},
                                    {"roofline_ms", l.least_ms},
                                    {"inefficiency_ms", l.lost_ms()},
                                    {"share", l.lost_ms() / g.step_ms}});
  if (p.ranks == 1) return json;
  const SumGaps s = sum_gaps(p);
  json["all_reduce"] = {{"bytes", s.bytes},
                        {"buckets", p.buckets.size()},
                        {"bus_gb_per_s", s.bus_bytes_per_s / 1e9},
                        {"at_rate_ms", s.at_rate_ms},
                        {"alone_ms", s.alone_ms},
                        {"exposed_ms", s.exposed_ms}};
  return json;
}

// ---------------------------------------------------------------- the loader alone

std::string loader_text(const LoaderRates& r) {
  const auto ms = [](double rate) { return rate > 0 ? 1e3 / rate : 0; };
  const double whole = ms(r.one_thread);
  std::string text =
      fmt::format("\n  {:<26}{:>10}{:>9}\n", "the loader alone", "ms/image", "share");
  double staged = 0;
  for (const LoaderRates::Stage& stage : r.stages) {
    staged += ms(stage.images_per_second);
    text += row(stage.name, ms(stage.images_per_second), whole);
  }
  text += row("not accounted", whole - staged, whole, "stages in one go share what is in caches");
  text += row("one thread, file to crop", whole, whole);
  const double ideal = r.one_thread * r.threads;
  const auto rate_row = [](std::string_view name, double rate, std::string_view note) {
    return fmt::format("  {:<26}{:>10.0f}{}{}\n", name, rate, note.empty() ? "" : "   ", note);
  };
  text += fmt::format("\n  {:<26}{:>10}\n", "", "images/s");
  text += rate_row(fmt::format("{} times one thread", r.threads), ideal, "");
  text += rate_row(fmt::format("a loader of {}", r.threads), r.loader,
                   fmt::format("{:.1f}% of that", percent(r.loader, ideal)));
  if (r.upload > 0) text += rate_row("copied to the device", r.upload, "");
  if (r.need > 0)
    text += rate_row("the step computes", r.need,
                     r.loader >= r.need ? "the loader keeps up"
                                        : fmt::format("it waits {:.1f}% of the time",
                                                      100 * (1 - r.loader / r.need)));
  return text;
}

}  // namespace engine

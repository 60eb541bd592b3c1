#include "tools/scale/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/files/csv.h"

namespace engine {
namespace {

// The columns of a row that are means of the repeats.
constexpr double RunRow::*kMeasured[] = {&RunRow::ms_median,       &RunRow::ms_p10,
                                         &RunRow::ms_p90,          &RunRow::images_per_second,
                                         &RunRow::data_ms,         &RunRow::forward_ms,
                                         &RunRow::backward_ms,     &RunRow::exposed_all_reduce_ms,
                                         &RunRow::optimizer_ms,    &RunRow::memory_mib_per_rank,
                                         &RunRow::gpu_utilisation, &RunRow::watts,
                                         &RunRow::joules_per_image};

std::vector<double> values_of(std::span<const RunRow* const> rows, double RunRow::*column) {
  std::vector<double> values;
  for (const RunRow* row : rows)
    if (!std::isnan(row->*column)) values.push_back(row->*column);
  return values;
}

Summary of_repeats(std::span<const RunRow* const> all) {
  std::vector<const RunRow*> ok;
  std::copy_if(all.begin(), all.end(), std::back_inserter(ok),
               [](const RunRow* row) { return row->ok(); });
  Summary s{.mean = ok.empty() ? *all.back() : *ok.front()};
  s.repeats = static_cast<int>(ok.size());
  if (ok.empty()) return s;
  for (double RunRow::*column : kMeasured)
    s.mean.*column = mean_interval(values_of(ok, column)).value;
  s.rate = mean_interval(values_of(ok, &RunRow::images_per_second));
  return s;
}

// Whether `one` is one rank that computes the batch of `many`.
bool is_baseline(const RunRow& one, const RunRow& many) {
  const int batch = many.scaling == "strong" ? many.global_batch : many.batch_per_rank;
  return one.ok() && one.ranks == 1 && one.nodes == 1 && one.global_batch == batch &&
         one.system == many.system && one.model == many.model &&
         one.image_size == many.image_size && one.precision == many.precision &&
         one.threads_per_rank == many.threads_per_rank && one.data == many.data &&
         one.loader_threads == many.loader_threads;
}

// Time by the images that a rank has: what several ranks add to the share of one.
Losses losses_of(const RunRow& one, const RunRow& many, double efficiency) {
  const double share =
      double(many.global_batch) / many.ranks / one.global_batch;  // 1 in weak scaling
  const double step = 1e3 * many.global_batch / many.images_per_second;
  const auto more = [&](double RunRow::*part) { return (many.*part - share * one.*part) / step; };
  Losses losses{.data = more(&RunRow::data_ms), .all_reduce = more(&RunRow::exposed_all_reduce_ms)};
  losses.rest = 1 - efficiency - losses.data - losses.all_reduce;
  return losses;
}

// More than the ideal is noise if the interval holds the ideal; else a smaller batch fits the
// caches better, or the baseline was disturbed.
std::string superlinear(const Summary& one, const Summary& many) {
  const Interval& e = *many.efficiency;
  if (!(e.value > 1)) return "";
  if (std::isnan(e.half)) return "unsure: a single repeat has no interval";
  if (!(e.low() > 1))
    return fmt::format("noise: the repeats of one rank differ by ±{:.1f}%",
                       100 * one.rate.half / one.rate.value);
  if (many.mean.scaling == "strong")
    return fmt::format("cache: a rank works on {:.0f} MiB, one alone on {:.0f} MiB",
                       many.mean.memory_mib_per_rank, one.mean.memory_mib_per_rank);
  return fmt::format("baseline: one rank was slowed by what its repeats share, p90 {:.0f}% of p10",
                     100 * one.mean.ms_p90 / one.mean.ms_p10);
}

void compare(Summary& many, const Summary& one) {
  const int ranks = many.mean.ranks;
  many.speed_up = ranks == 1 ? Interval{1, 0} : ratio(many.rate, one.rate);
  many.efficiency = Interval{many.speed_up->value / ranks, many.speed_up->half / ranks};
  if (ranks == 1) return;
  many.losses = losses_of(one.mean, many.mean, many.efficiency->value);
  many.superlinear = superlinear(one, many);
}

void mark_best(std::vector<Summary>& all) {
  for (Summary& s : all)
    s.best = s.repeats > 0 && std::none_of(all.begin(), all.end(), [&](const Summary& other) {
               return other.repeats > 0 && other.mean.model == s.mean.model &&
                      other.rate.value > s.rate.value;
             });
}

}  // namespace

std::vector<Summary> summarise(std::span<const RunRow> rows, int64_t epoch_images) {
  std::vector<std::pair<std::string, std::vector<const RunRow*>>> groups;
  for (const RunRow& row : rows) {
    const std::string key = configuration_of(row);
    const auto same = [&](const auto& group) { return group.first == key; };
    auto at = std::find_if(groups.begin(), groups.end(), same);
    if (at == groups.end()) at = groups.insert(at, {key, {}});
    at->second.push_back(&row);
  }
  std::vector<Summary> all;
  for (const auto& [key, repeats] : groups) all.push_back(of_repeats(repeats));
  for (Summary& s : all) {
    if (s.repeats == 0) continue;
    const auto one = std::find_if(all.begin(), all.end(), [&](const Summary& other) {
      return is_baseline(other.mean, s.mean);
    });
    if (one != all.end()) compare(s, *one);
    if (epoch_images > 0) s.hours_per_epoch = double(epoch_images) / s.rate.value / 3600;
  }
  mark_best(all);
  return all;
}

std::string summary_csv(std::span<const Summary> summaries) {
  std::string text =
      "system,device,model,image_size,precision,nodes,ranks,threads_per_rank,batch_per_rank,"
      "global_batch,scaling,data,loader_threads,repeats,images_per_second,images_per_second_ci95,"
      "ms_median,speed_up,speed_up_ci95,efficiency,efficiency_ci95,lost_to_data,"
      "lost_to_all_reduce,lost_to_rest,data_ms,forward_ms,backward_ms,exposed_all_reduce_ms,"
      "optimizer_ms,memory_mib_per_rank,gpu_utilisation,watts,joules_per_image,hours_per_epoch,"
      "best,superlinear,status\n";
  constexpr Interval kNone{kNotMeasured, kNotMeasured};
  constexpr Losses kNoLosses{kNotMeasured, kNotMeasured, kNotMeasured};
  for (const Summary& s : summaries) {
    const RunRow& m = s.mean;
    const Interval speed_up = s.speed_up.value_or(kNone), efficiency = s.efficiency.value_or(kNone);
    const Losses losses = s.losses.value_or(kNoLosses);
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{}", m.system, csv_field(m.device),
                        m.model, m.image_size, m.precision, m.nodes, m.ranks, m.threads_per_rank,
                        m.batch_per_rank, m.global_batch, m.scaling, csv_field(m.data),
                        m.loader_threads, s.repeats);
    for (const double value : {s.rate.value,       s.rate.half,
                               m.ms_median,        speed_up.value,
                               speed_up.half,      efficiency.value,
                               efficiency.half,    losses.data,
                               losses.all_reduce,  losses.rest,
                               m.data_ms,          m.forward_ms,
                               m.backward_ms,      m.exposed_all_reduce_ms,
                               m.optimizer_ms,     m.memory_mib_per_rank,
                               m.gpu_utilisation,  m.watts,
                               m.joules_per_image, s.hours_per_epoch})
      text.append(",").append(csv_number(value));
    text +=
        fmt::format(",{},{},{}\n", s.best ? 1 : 0, csv_field(s.superlinear), csv_field(m.status));
  }
  return text;
}

}  // namespace engine

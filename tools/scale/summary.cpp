#include "tools/scale/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/files/csv.h"
#include "tools/bench/step.h"
#include "tools/scale/study.h"

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
  for (const RunRow* row : ok) s.rates[row->repeat] = row->images_per_second;
  for (double RunRow::*column : kMeasured)
    s.mean.*column = mean_interval(values_of(ok, column)).value;
  s.rate = mean_interval(values_of(ok, &RunRow::images_per_second));
  return s;
}

bool alike(const RunRow& a, const RunRow& b) {
  return a.system == b.system && a.model == b.model && a.image_size == b.image_size &&
         a.precision == b.precision && a.threads_per_rank == b.threads_per_rank &&
         a.data == b.data && a.loader_threads == b.loader_threads;
}

// Whether `one` is one rank that computes the batch of `many`.
bool is_baseline(const RunRow& one, const RunRow& many) {
  const int batch = many.scaling == "strong" ? many.global_batch : many.batch_per_rank;
  return one.ok() && one.ranks == 1 && one.nodes == 1 && one.global_batch == batch &&
         alike(one, many);
}

// Whether `apart` is what ranks of a weak scaling do without each other.
bool is_apart(const RunRow& apart, const RunRow& many) {
  return apart.ok() && apart.scaling == kIndependent && many.scaling == "weak" &&
         apart.ranks == many.ranks && apart.nodes == many.nodes &&
         apart.batch_per_rank == many.batch_per_rank && alike(apart, many);
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

// The same of weak scaling, beside ranks of which none waits for another.
Losses losses_beside(const RunRow& apart, const RunRow& one, const RunRow& many,
                     double efficiency) {
  const auto step = [](const RunRow& row) { return row.global_batch / row.images_per_second; };
  Losses losses{.data = 1e-3 * (many.data_ms - apart.data_ms) / step(many)};
  losses.host = (step(apart) - step(one)) / step(many);
  losses.all_reduce = 1 - efficiency - losses.host - losses.data;
  return losses;
}

// More than the ideal is noise if the interval holds the ideal; else a smaller batch fits the
// caches better, or the baseline was disturbed.
std::string superlinear(const Summary& one, const Summary& many) {
  const MeanInterval& e = *many.efficiency;
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

double median_efficiency(const Summary& many, const Summary& one) {
  std::vector<double> ratios;
  for (const auto& [repeat, rate] : many.rates)
    if (const auto at = one.rates.find(repeat); at != one.rates.end())
      ratios.push_back(rate / at->second / many.mean.ranks);
  return quantile(ratios, 0.5);
}

void compare(Summary& many, const Summary& one, const Summary* apart) {
  const int ranks = many.mean.ranks;
  many.speed_up = ranks == 1 ? MeanInterval{1, 0} : ratio(many.rate, one.rate);
  many.efficiency = MeanInterval{many.speed_up->value / ranks, many.speed_up->half / ranks};
  many.median_efficiency = median_efficiency(many, one);
  if (ranks == 1) return;
  const double efficiency = many.efficiency->value;
  many.losses = apart ? losses_beside(apart->mean, one.mean, many.mean, efficiency)
                      : losses_of(one.mean, many.mean, efficiency);
  many.superlinear = superlinear(one, many);
}

// Independent ranks train several models.
bool trains(const Summary& s) {
  return s.repeats > 0 && s.mean.scaling != kIndependent;
}

void mark_best(std::vector<Summary>& all) {
  for (Summary& s : all)
    s.best = trains(s) && std::none_of(all.begin(), all.end(), [&](const Summary& other) {
               return trains(other) && other.mean.model == s.mean.model &&
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
    const auto find = [&](auto is) {
      const auto at =
          std::ranges::find_if(all, [&](const Summary& other) { return is(other.mean, s.mean); });
      return at == all.end() ? nullptr : &*at;
    };
    if (const Summary* one = find(is_baseline)) compare(s, *one, find(is_apart));
    if (epoch_images > 0) s.hours_per_epoch = double(epoch_images) / s.rate.value / 3600;
  }
  mark_best(all);
  return all;
}

std::string summary_csv(std::span<const Summary> summaries) {
  std::string text =
      "system,device,model,image_size,precision,nodes,ranks,threads_per_rank,batch_per_rank,"
      "global_batch,scaling,data,loader_threads,repeats,images_per_second,images_per_second_ci95,"
      "ms_median,speed_up,speed_up_ci95,efficiency,efficiency_ci95,"
      "efficiency_median,lost_to_data,lost_to_all_reduce,lost_to_host,lost_to_rest,data_ms,forward_"
      "ms,backward_ms,exposed_all_reduce_ms,"
      "optimizer_ms,memory_mib_per_rank,gpu_utilisation,watts,joules_per_image,hours_per_epoch,"
      "best,superlinear,status\n";
  constexpr MeanInterval kNone{kNotMeasured, kNotMeasured};
  constexpr Losses kNoLosses{kNotMeasured, kNotMeasured, kNotMeasured, kNotMeasured};
  for (const Summary& s : summaries) {
    const RunRow& m = s.mean;
    const MeanInterval speed_up = s.speed_up.value_or(kNone),
                       efficiency = s.efficiency.value_or(kNone);
    const Losses losses = s.losses.value_or(kNoLosses);
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{}", m.system, csv_field(m.device),
                        m.model, m.image_size, m.precision, m.nodes, m.ranks, m.threads_per_rank,
                        m.batch_per_rank, m.global_batch, m.scaling, csv_field(m.data),
                        m.loader_threads, s.repeats);
    for (const double value :
         {s.rate.value,       s.rate.half,           m.ms_median,       speed_up.value,
          speed_up.half,      efficiency.value,      efficiency.half,   s.median_efficiency,
          losses.data,        losses.all_reduce,     losses.host,       losses.rest,
          m.data_ms,          m.forward_ms,          m.backward_ms,     m.exposed_all_reduce_ms,
          m.optimizer_ms,     m.memory_mib_per_rank, m.gpu_utilisation, m.watts,
          m.joules_per_image, s.hours_per_epoch})
      text.append(",").append(csv_number(value));
    text +=
        fmt::format(",{},{},{}\n", s.best ? 1 : 0, csv_field(s.superlinear), csv_field(m.status));
  }
  return text;
}

}  // namespace engine

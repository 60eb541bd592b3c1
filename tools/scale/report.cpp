#include "tools/scale/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "io/files/csv.h"
#include "tools/cli/units.h"

namespace engine {
namespace {

std::string plural(int count, const std::string& unit) {
  return fmt::format("{} {}{}", count, unit, count == 1 ? "" : "s");
}

// "4 GPUs", "4 GPUs on 2 hosts"
std::string ranks_of(const Summary& s, const std::string& unit) {
  const std::string text = plural(s.mean.ranks, unit);
  return s.mean.nodes == 1 ? text : fmt::format("{} on {} hosts", text, s.mean.nodes);
}

std::string head(const StudyFacts& facts) {
  std::string text;
  for (const Facts* part : {&facts.machine, &facts.models})
    for (const auto& [name, value] : *part) text += fmt::format("{:<18}{}\n", name, value);
  return text + '\n';
}

constexpr const char* kRow =
    "{:<16}{:>5}{:>7}{:>7}{:>7} {:<7}{:>5}{:>13}{:>10}{:>7}{:>9}{:>7}{:>8}{:>9}{:>9}{:>8}{:>7}"
    "{:>9}{:>7}{:>8}\n";

std::string table_head(const std::string& unit) {
  return fmt::format(fmt::runtime(kRow), "model", "prec", unit + 's', "batch", "global", "scaling",
                     "load", "ms/step", "img/s", "±95%", "speed-up", "effic.", "data", "forward",
                     "backward", "reduce", "optim", "MiB/rank", "W", "J/img");
}

// Empty where nothing was measured.
std::string number(double value, int digits) {
  return std::isnan(value) ? "" : fmt::format("{:.{}f}", value, digits);
}

std::string table_row(const Summary& s) {
  const RunRow& m = s.mean;
  const auto ms = [](double value) { return number(value, value < 10 ? 2 : 1); };
  return fmt::format(
      fmt::runtime(kRow), m.model, m.precision, m.ranks, m.batch_per_rank, m.global_batch,
      m.scaling, m.loader_threads > 0 ? std::to_string(m.loader_threads) : "",
      s.repeats > 0 ? number(m.ms_median, 2) : m.status.substr(0, m.status.find(':')),
      number(s.rate.value, 1), number(s.rate.half, 1),
      s.speed_up ? number(s.speed_up->value, 2) + "x" : "",
      s.efficiency ? number(100 * s.efficiency->value, 1) + "%" : "", ms(m.data_ms),
      ms(m.forward_ms), ms(m.backward_ms), ms(m.exposed_all_reduce_ms), ms(m.optimizer_ms),
      number(m.memory_mib_per_rank, 0), number(m.watts, 0), number(m.joules_per_image, 3));
}

std::string published_rows(const Summary& s, std::span<const Rate> published) {
  std::string text;
  for (const Rate& rate : published)
    if (rate.model == s.mean.model && rate.batch == s.mean.batch_per_rank &&
        rate.gpus == s.mean.ranks && rate.precision == s.mean.precision)
      text += fmt::format("  {:.2f} x {:.1f} img/s: {}, {}, {}{}\n",
                          s.rate.value / rate.images_per_second, rate.images_per_second,
                          rate.hardware, rate.system, rate.mode,
                          rate.memory_mb ? fmt::format(", {:.0f} MB", *rate.memory_mb) : "");
  return text;
}

// The study's rows of one model, precision, batch, scaling and number of loading threads.
std::string series_of(const Summary& s) {
  const RunRow& m = s.mean;
  const bool strong = m.scaling == "strong";
  std::string text =
      fmt::format("{}, {}, {} {}, {}", m.model, m.precision, strong ? "global batch" : "batch",
                  strong ? m.global_batch : m.batch_per_rank, m.scaling);
  if (m.loader_threads > 0) text += fmt::format(", {} loading", m.loader_threads);
  return text;
}

bool is_largest(const Summary& s, std::span<const Summary> all) {
  return s.efficiency && s.mean.ranks > 1 &&
         std::none_of(all.begin(), all.end(), [&](const Summary& other) {
           return other.efficiency && other.mean.ranks > s.mean.ranks &&
                  series_of(other) == series_of(s);
         });
}

std::string best_line(const Summary& s, const std::string& unit) {
  std::string text =
      fmt::format("{}: best is {}, {}, batch {} each: {:.1f} img/s", s.mean.model,
                  ranks_of(s, unit), s.mean.precision, s.mean.batch_per_rank, s.rate.value);
  if (!std::isnan(s.hours_per_epoch))
    text += fmt::format(", {} per epoch", duration_text(3600 * s.hours_per_epoch));
  return text + '\n';
}

std::string failures(std::span<const Summary> summaries) {
  std::string text;
  for (const Summary& s : summaries)
    if (s.repeats == 0 && !s.mean.complete())
      text += fmt::format("{}, {} ranks: {}\n", series_of(s), s.mean.ranks, s.mean.status);
  return text;
}

}  // namespace

std::string sentence(const Summary& s, const std::string& unit) {
  std::string text = fmt::format("{}: {:.{}f}x one, {:.0f}%", ranks_of(s, unit), s.speed_up->value,
                                 s.speed_up->value < 10 ? 2 : 1, 100 * s.efficiency->value);
  constexpr double kAlike = 0.01;
  if (std::abs(s.median_efficiency - s.efficiency->value) > kAlike)
    text += fmt::format(" (median of the turns {:.0f}%)", 100 * s.median_efficiency);
  if (!s.superlinear.empty()) return text + "; " + s.superlinear;
  std::vector<std::string> lost;
  const auto add = [&lost](double share, const char* to) {
    if (share >= 0.005) lost.push_back(fmt::format("{:.0f}% to {}", 100 * share, to));
  };
  add(s.losses->all_reduce, "all-reduce");
  add(s.losses->data, "data");
  add(s.losses->host, "the host");
  add(s.losses->rest, "computation");
  return lost.empty() ? text : fmt::format("{}; lost {}", text, fmt::join(lost, ", "));
}

std::string report(const StudyFacts& facts, std::span<const Summary> summaries,
                   std::span<const Rate> published) {
  std::string text = head(facts) + table_head(facts.unit);
  for (const Summary& s : summaries) text += table_row(s) + published_rows(s, published);
  text += '\n';
  for (const Summary& s : summaries)
    if (is_largest(s, summaries))
      text += fmt::format("{}: {}\n", series_of(s), sentence(s, facts.unit));
  for (const Summary& s : summaries)
    if (s.best) text += best_line(s, facts.unit);
  return text + failures(summaries);
}

std::string published_csv(std::span<const Rate> published, std::span<const std::string> models) {
  std::string text =
      "hardware,system,mode,model,precision,batch_per_rank,ranks,images_per_second,"
      "memory_mib_per_rank\n";
  for (const Rate& rate : published)
    if (std::find(models.begin(), models.end(), rate.model) != models.end())
      text += fmt::format("{},{},{},{},{},{},{},{},{}\n", csv_field(rate.hardware),
                          csv_field(rate.system), csv_field(rate.mode), rate.model, rate.precision,
                          rate.batch, rate.gpus, csv_number(rate.images_per_second),
                          csv_number(rate.memory_mb.value_or(kNotMeasured)));
  return text;
}

std::vector<Rate> read_published(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Rate> rates;
  for (const auto& file : files) {
    const std::vector<Rate> more = read_rates(file);
    rates.insert(rates.end(), more.begin(), more.end());
  }
  return rates;
}

}  // namespace engine

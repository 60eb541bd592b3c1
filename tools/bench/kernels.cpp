#include "tools/bench/kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "tools/bench/step.h"

namespace engine {
namespace {

// One kernel at one shape, or summed over shapes: what it costs a step.
struct Row {
  std::string kernel, shape;
  int count = 0;
  double bytes = 0, flops = 0;                  // of one launch; summed: of the step
  double median = 0, p10 = 0, p90 = 0;          // ms of one launch
  double in_order = 0;                          // ms of all launches where they stand in the step
  double step_ms = 0, least_ms = 0, share = 0;  // of the step; least: at the ceilings
  double ceiling() const { return 100 * least_ms / step_ms; }
};

std::vector<Row> rows_of(const KernelTimes& times) {
  std::vector<Row> rows;
  double total = 0;
  for (const KernelTime& k : times.kernels) {
    const std::vector<double> ms(k.ms.begin(), k.ms.end());
    Row row{.kernel = k.kernel,
            .shape = k.shape,
            .count = k.count,
            .bytes = k.cost.bytes,
            .flops = k.cost.flops,
            .median = quantile(ms, 0.5),
            .p10 = quantile(ms, 0.1),
            .p90 = quantile(ms, 0.9),
            .in_order = k.in_order_ms};
    row.step_ms = row.median * k.count;
    row.least_ms = least_ms(times.ceilings, k.cost) * k.count;
    total += row.step_ms;
    rows.push_back(std::move(row));
  }
  for (Row& row : rows) row.share = row.step_ms / total;
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.step_ms > b.step_ms; });
  return rows;
}

std::vector<Row> summed_by_kernel(const std::vector<Row>& rows) {
  std::map<std::string, Row> sums;
  for (const Row& row : rows) {
    Row& sum = sums[row.kernel];
    sum.kernel = row.kernel;
    sum.count += row.count;
    sum.bytes += row.bytes * row.count;
    sum.flops += row.flops * row.count;
    sum.in_order += row.in_order;
    sum.step_ms += row.step_ms;
    sum.least_ms += row.least_ms;
    sum.share += row.share;
  }
  std::vector<Row> sorted;
  for (auto& [name, row] : sums) sorted.push_back(std::move(row));
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Row& a, const Row& b) { return a.step_ms > b.step_ms; });
  return sorted;
}

double gigabytes(double bytes, double ms) {
  return bytes / ms / 1e6;  // per second
}

double teraflops(double flops, double ms) {
  return flops / ms / 1e9;
}

}  // namespace

nlohmann::ordered_json kernel_json(const KernelTimes& times) {
  const bool whole = times.captured_ms > 0;
  nlohmann::ordered_json json = {{"hardware", times.gpu}};
  if (whole)
    json.update({{"ceiling_gb_per_s", times.ceilings.copy_bytes_per_s / 1e9},
                 {"ceiling_tflop_per_s", times.ceilings.product_flops_per_s / 1e12},
                 {"ms_captured", times.captured_ms},
                 {"ms_enqueued", times.enqueued_ms},
                 {"ms_in_order", times.in_order_ms}});
  double total = 0;
  json["kernels"] = nlohmann::ordered_json::array();
  for (const Row& r : rows_of(times)) {
    total += r.step_ms;
    nlohmann::ordered_json kernel = {{"kernel", r.kernel},
                                     {"shape", r.shape},
                                     {"count", r.count},
                                     {"ms_median", r.median},
                                     {"ms_p10", r.p10},
                                     {"ms_p90", r.p90},
                                     {"bytes", r.bytes},
                                     {"flops", r.flops},
                                     {"gb_per_s", gigabytes(r.bytes, r.median)},
                                     {"tflop_per_s", teraflops(r.flops, r.median)}};
    if (whole)
      kernel.update({{"ms_per_step", r.step_ms},
                     {"ms_in_order", r.in_order},
                     {"share", r.share},
                     {"percent_of_ceiling", r.ceiling()}});
    json["kernels"].push_back(std::move(kernel));
  }
  if (whole) json["ms_per_step"] = total;
  return json;
}

std::string filtered_table(const KernelTimes& times) {
  std::string text = fmt::format("{}\n{:>6}{:>10}{:>19}{:>9}{:>9}  {}\n", times.gpu, "times", "us",
                                 "p10-p90 us", "GB/s", "TFLOP/s", "kernel, shape");
  for (const Row& r : rows_of(times))
    text +=
        fmt::format("{:>6}{:>10.1f}{:>19}{:>9.0f}{:>9.1f}  {} {}\n", r.count, 1e3 * r.median,
                    fmt::format("{:.1f}-{:.1f}", 1e3 * r.p10, 1e3 * r.p90),
                    gigabytes(r.bytes, r.median), teraflops(r.flops, r.median), r.kernel, r.shape);
  return text;
}

std::string kernel_table(const KernelTimes& times, int rows) {
  const std::vector<Row> shapes = rows_of(times);
  double total = 0;
  for (const Row& row : shapes) total += row.step_ms;
  std::string text = fmt::format(
      "{}: copies {:.0f} GB/s, products {:.1f} TFLOP/s\n"
      "a step: {:.3f} ms captured; {:.3f} ms as launches one after the other; {:.3f} ms the sum of "
      "the launches in their order ({:+.1f}%); {:.3f} ms the sum of each alone on a cold L2\n\n",
      times.gpu, times.ceilings.copy_bytes_per_s / 1e9, times.ceilings.product_flops_per_s / 1e12,
      times.captured_ms, times.enqueued_ms, times.in_order_ms,
      100 * (times.in_order_ms / times.captured_ms - 1), total);
  text += fmt::format("{:<26}{:>9}{:>9}{:>9}{:>8}{:>9}{:>9}{:>10}\n", "kernel", "launches",
                      "in order", "ms/step", "share", "GB/s", "TFLOP/s", "ceiling");
  for (const Row& r : summed_by_kernel(shapes))
    text += fmt::format("{:<26}{:>9}{:>9.3f}{:>9.3f}{:>7.1f}%{:>9.0f}{:>9.1f}{:>9.0f}%\n", r.kernel,
                        r.count, r.in_order, r.step_ms, 100 * r.share,
                        gigabytes(r.bytes, r.step_ms), teraflops(r.flops, r.step_ms), r.ceiling());
  text += fmt::format("\n{:>8}{:>6}{:>10}{:>19}{:>9}{:>9}{:>9}  {}\n", "share", "times", "us",
                      "p10-p90 us", "GB/s", "TFLOP/s", "ceiling", "kernel, shape");
  for (size_t i = 0; i < shapes.size() && (rows == 0 || int(i) < rows); ++i) {
    const Row& r = shapes[i];
    text += fmt::format(
        "{:>7.2f}%{:>6}{:>10.1f}{:>19}{:>9.0f}{:>9.1f}{:>8.0f}%  {} {}\n", 100 * r.share, r.count,
        1e3 * r.median, fmt::format("{:.1f}-{:.1f}", 1e3 * r.p10, 1e3 * r.p90),
        gigabytes(r.bytes, r.median), teraflops(r.flops, r.median), r.ceiling(), r.kernel, r.shape);
  }
  return text;
}

}  // namespace engine

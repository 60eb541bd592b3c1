// runs.csv: what a study measured, a row per repeat of a configuration, and how a study goes on
// with the rows that are there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

// A number that was not measured; an empty field.
inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// Times are medians over the steps of rank 0, by its device's clock, in milliseconds; `data_ms` is
// a mean, and 0 for synthetic data. Memory is what the session's arenas allocate on a rank, or
// would. What is said of GPUs is of all ranks together, utilisation of the mean GPU.
struct RunRow {
  std::string system = "engine", host, device;
  int nodes = 1, ranks = 1, threads_per_rank = 1;
  std::string model;
  int image_size = 0;
  int64_t parameters = 0;
  std::string precision;
  int batch_per_rank = 0, global_batch = 0;
  std::string scaling, data;
  int loader_threads = 0, repeat = 1, steps = 0;
  double ms_median = kNotMeasured, ms_p10 = kNotMeasured, ms_p90 = kNotMeasured;
  double images_per_second = kNotMeasured;  // of all ranks
  double data_ms = kNotMeasured, forward_ms = kNotMeasured, backward_ms = kNotMeasured,
         exposed_all_reduce_ms = kNotMeasured, optimizer_ms = kNotMeasured;
  double memory_mib_per_rank = kNotMeasured;
  double gpu_utilisation = kNotMeasured;  // 0 to 1
  double watts = kNotMeasured, joules_per_image = kNotMeasured;
  std::string status;  // "ok", "does_not_fit" or "failed: why"

  bool ok() const { return status == "ok"; }
  bool complete() const { return ok() || status == "does_not_fit"; }  // it need not run again
};

// Calls v(name, field) for every column, in the order of the file.
void visit_columns(auto& row, auto&& v) {
  v("system", row.system);
  v("host", row.host);
  v("device", row.device);
  v("nodes", row.nodes);
  v("ranks", row.ranks);
  v("threads_per_rank", row.threads_per_rank);
  v("model", row.model);
  v("image_size", row.image_size);
  v("parameters", row.parameters);
  v("precision", row.precision);
  v("batch_per_rank", row.batch_per_rank);
  v("global_batch", row.global_batch);
  v("scaling", row.scaling);
  v("data", row.data);
  v("loader_threads", row.loader_threads);
  v("repeat", row.repeat);
  v("steps", row.steps);
  v("ms_median", row.ms_median);
  v("ms_p10", row.ms_p10);
  v("ms_p90", row.ms_p90);
  v("images_per_second", row.images_per_second);
  v("data_ms", row.data_ms);
  v("forward_ms", row.forward_ms);
  v("backward_ms", row.backward_ms);
  v("exposed_all_reduce_ms", row.exposed_all_reduce_ms);
  v("optimizer_ms", row.optimizer_ms);
  v("memory_mib_per_rank", row.memory_mib_per_rank);
  v("gpu_utilisation", row.gpu_utilisation);
  v("watts", row.watts);
  v("joules_per_image", row.joules_per_image);
  v("status", row.status);
}

std::string runs_header();                        // with its line end
std::string to_csv(const RunRow& row);            // likewise
std::string csv_number(double value);             // 7 digits; empty if it was not measured
std::string configuration_of(const RunRow& row);  // equal for the repeats of one configuration

// The rows of a file; a last line without an end is of a study that was killed, and is left out.
// Error(data) for another header or a field that is no number.
std::vector<RunRow> read_runs(const std::filesystem::path& file);

// The file that a study writes: every row is there when append() returns.
class RunsFile {
 public:
  // Begins a file, or goes on with the complete rows of one: the rest will run again. Without
  // `resume` a file that is there is an Error(usage).
  RunsFile(std::filesystem::path file, bool resume);

  const std::vector<RunRow>& rows() const { return rows_; }
  // Whether that configuration and repeat is there.
  bool has(const RunRow& row) const;
  void append(const RunRow& row);

 private:
  std::filesystem::path file_;
  std::vector<RunRow> rows_;
  std::ofstream out_;
};

}  // namespace engine

// Rows of an invented study, for tests of what is made of them.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/rates.h"
#include "tools/scale/runs.h"

namespace engine::test {

// A row of mnist_cnn that was measured, with a step of which an eighth is optimizer.
inline RunRow measured_row(int ranks, int batch, int global, const std::string& scaling,
                           double rate, int repeat = 1) {
  RunRow row{.host = "somewhere", .device = "A, \"quoted\" device"};
  row.ranks = ranks;
  row.model = "mnist_cnn";
  row.image_size = 28;
  row.parameters = 1'199'882;
  row.precision = "fp32";
  row.batch_per_rank = batch;
  row.global_batch = global;
  row.scaling = scaling;
  row.data = "synthetic";
  row.repeat = repeat;
  row.steps = 50;
  row.ms_median = 1e3 * global / rate;
  row.ms_p10 = 0.9 * row.ms_median;
  row.ms_p90 = 1.1 * row.ms_median;
  row.images_per_second = rate;
  row.data_ms = 0;
  row.forward_ms = row.ms_median / 4;
  row.backward_ms = row.ms_median / 2;
  row.exposed_all_reduce_ms = 0;
  row.optimizer_ms = row.ms_median / 8;
  row.memory_mib_per_rank = batch;
  row.status = "ok";
  return row;
}

// Three repeats, around a rate.
inline std::vector<RunRow> repeats_of(int ranks, int batch, int global, const std::string& scaling,
                                      double rate, double spread) {
  std::vector<RunRow> rows;
  for (int repeat = 1; repeat <= 3; ++repeat)
    rows.push_back(
        measured_row(ranks, batch, global, scaling, rate + (repeat - 2) * spread, repeat));
  return rows;
}

// A rate of others for mnist_cnn, batch 32, on two GPUs.
inline Rate published_rate() {
  return {.hardware = "H",
          .system = "S",
          .mode = "eager",
          .model = "mnist_cnn",
          .precision = "fp32",
          .batch = 32,
          .gpus = 2,
          .images_per_second = 95};
}

}  // namespace engine::test

// Rates that others measured, as tools/compare/reference/*.json hold them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace engine {

struct Rate {
  std::string hardware, system, mode, model, precision;
  int batch = 0, gpus = 1;  // the batch of one GPU
  double images_per_second = 0;
  std::optional<double> ms, memory_mb;
};

std::vector<Rate> read_rates(const std::filesystem::path& file);

}  // namespace engine

#include "tools/bench/rates.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/json.h"

namespace engine {
namespace {

std::optional<double> number_or_null(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

Rate rate_of(const nlohmann::json& entry) {
  return {.hardware = entry.at("hardware"),
          .system = entry.at("system"),
          .mode = entry.at("mode"),
          .model = entry.at("model"),
          .precision = entry.at("precision"),
          .batch = entry.at("batch_size"),
          .gpus = entry.at("gpus"),
          .images_per_second = entry.at("images_per_second"),
          .ms = number_or_null(entry.at("ms")),
          .memory_mb = number_or_null(entry.at("memory_mb"))};
}

}  // namespace

std::vector<Rate> read_rates(const std::filesystem::path& file) {
  std::ifstream in(file);
  require(in.good(), Failure::data, "{}: cannot be read", file.string());
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto entries = parse_json<nlohmann::json>(text, Failure::data, file.string());
  try {
    std::vector<Rate> rates;
    for (const auto& entry : entries) rates.push_back(rate_of(entry));
    return rates;
  } catch (const nlohmann::json::exception& error) {
    fail(Failure::data, "{}: {}", file.string(), error.what());
  }
}

}  // namespace engine

#include "io/weights/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/json.h"
#include "io/weights/weight_names.h"
#include "io/weights/weights.h"

namespace engine {
namespace {

using nlohmann::json;

ManifestEntry parse_entry(const json& file, const json& models, const std::string& path) {
  const json& model = models.at(file.at("model").get<std::string>());
  const auto count = [&](const char* name) {
    return whole_number<int64_t>(model.at(name), Failure::weights,
                                 fmt::format("{}: {}", path, name));
  };
  return {.names = file.at("names"),
          .model = file.at("model"),
          .licence = file.at("licence"),
          .source = file.at("source"),
          .sha256 = file.value("sha256", ""),
          .mib = file.value("mib", 0.),
          .top1 = file.value("top1", 0.),
          .preprocess = file.contains("preprocess") ? print_json(file.at("preprocess")) : "",
          .tensors = count("tensors"),
          .counters = count("counters"),
          .parameters = count("parameters"),
          .layout = model.at("layout")};
}

// "efficientnet_b3_rwightman-b3899882.pth", with or without ".pth" and "-b3899882".
bool means(std::string_view name, std::string_view file) {
  if (name == file) return true;
  file = file.substr(0, file.rfind('.'));
  return name == file || name == file.substr(0, file.rfind('-'));
}

std::vector<std::string> differences(const WeightReport& report, TensorFile& file) {
  const ManifestEntry& entry = *report.entry;
  std::vector<std::string> problems;
  if (!report.sha256.starts_with(entry.sha256))
    problems.push_back(fmt::format("SHA-256 is {}, published {}: damaged or another file",
                                   report.sha256, entry.sha256));
  if (report.tensors != entry.tensors && report.tensors != entry.tensors - entry.counters)
    problems.push_back(fmt::format("{} tensors, {} expected ({} without batch counters)",
                                   report.tensors, entry.tensors, entry.tensors - entry.counters));
  if (report.parameters != entry.parameters)
    problems.push_back(
        fmt::format("{} parameters, {} expected", report.parameters, entry.parameters));
  normalise_names(file, entry.model);
  if (layout_digest(file) != entry.layout)
    problems.push_back(fmt::format("names or shapes are not those of {}", entry.model));
  return problems;
}

}  // namespace

std::vector<ManifestEntry> read_manifest(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path, Failure::weights);
  const json manifest = parse_json<json>(as_text(bytes), Failure::weights, path.string());
  std::vector<ManifestEntry> entries;
  try {
    for (const json& file : manifest.at("files"))
      entries.push_back(parse_entry(file, manifest.at("models"), path.string()));
  } catch (const json::exception& problem) {
    fail(Failure::weights, "{}: {}", path.string(), problem.what());
  }
  return entries;
}

const ManifestEntry* find_entry(std::span<const ManifestEntry> manifest, std::string_view name,
                                std::string_view model) {
  const std::string_view usual_of = name == "imagenet" ? model : name;
  for (const ManifestEntry& entry : manifest)
    if (entry.model == usual_of) return &entry;
  for (const ManifestEntry& entry : manifest)
    for (const std::string& file : entry.names)
      if (means(name, file)) return &entry;
  return nullptr;
}

std::string layout_digest(const TensorFile& file) {
  Sha256 hash;
  for (const auto& [name, tensor] : file.tensors)
    if (!name.ends_with("num_batches_tracked"))
      hash.update(as_bytes(fmt::format("{} {}\n", name, to_string(tensor.shape))));
  return hash.finish();
}

WeightReport verify_weights(const std::filesystem::path& path,
                            std::span<const ManifestEntry> manifest) {
  WeightReport report{.sha256 = sha256(read_file(path, Failure::weights))};
  TensorFile file = read_weights(path);
  report.tensors = static_cast<int64_t>(file.tensors.size());
  report.parameters = count_parameters(file);
  const std::string name = path.filename().string();
  const auto found = std::ranges::find_if(manifest, [&](const ManifestEntry& entry) {
    return std::ranges::find(entry.names, name) != entry.names.end();
  });
  if (found == manifest.end()) return report;
  report.entry = *found;
  report.problems = differences(report, file);
  return report;
}

}  // namespace engine

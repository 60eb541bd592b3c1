// engine models: the models, and the weights that are published for each.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>

#include "io/files/json.h"
#include "io/images/preprocess.h"
#include "io/weights/manifest.h"
#include "models/models.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

struct ModelsOptions {
  std::optional<std::filesystem::path> manifest;
  bool json = false;
  void visit(auto& v) {
    v("--json", json, "one JSON list");
    v("--manifest FILE", manifest, "another list than the one that comes with the program");
  }
};

struct ModelRow {
  std::string name;
  int64_t parameters = 0;
  double mib = 0;      // of all tensors in fp32
  int image_size = 0;  // the side that the model gets by default
  std::vector<ManifestEntry> weights;
};

// With the classes of ImageNet, or the ten digits for a model of grey images.
ModelRow row_of(const std::string& name, std::span<const ManifestEntry> manifest) {
  const Preprocess usual = default_preprocess(name);
  const Graph graph = make_model(
      name,
      {.classes = usual.channels == 1 ? 10 : 1000, .height = usual.crop, .width = usual.crop});
  ModelRow row{.name = name, .parameters = graph.trained_parameters(), .image_size = usual.crop};
  for (const Parameter& p : graph.parameters)
    row.mib += double(elements(p.shape)) * sizeof(float) / 1048576;
  for (const ManifestEntry& entry : manifest)
    if (entry.model == name) row.weights.push_back(entry);
  return row;
}

// As --weights takes it.
std::string weights_name(const ManifestEntry& entry) {
  return entry.names.front().substr(0, entry.names.front().rfind('.'));
}

// A model's further weights follow in lines of their own.
std::string table(const std::vector<ModelRow>& rows) {
  static constexpr char kLine[] = "{:<17}  {:>6}  {:>5}  {:>3}  {:>5}  {}\n";
  const auto top1 = [](const ManifestEntry& entry) {
    return entry.top1 > 0 ? fmt::format("{:.1f}", entry.top1) : "-";
  };
  std::string text = fmt::format(kLine, "model", "params", "MiB", "px", "top-1", "weights");
  for (const ModelRow& row : rows) {
    const bool published = !row.weights.empty();
    text += fmt::format(kLine, row.name, fmt::format("{:.2f}M", double(row.parameters) / 1e6),
                        fmt::format("{:.1f}", row.mib), row.image_size,
                        published ? top1(row.weights.front()) : "-",
                        published ? weights_name(row.weights.front()) : "-");
    for (size_t i = 1; i < row.weights.size(); ++i)
      text +=
          fmt::format(kLine, "", "", "", "", top1(row.weights[i]), weights_name(row.weights[i]));
  }
  return text;
}

std::string json_of(const std::vector<ModelRow>& rows) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ModelRow& row : rows) {
    nlohmann::ordered_json weights = nlohmann::ordered_json::array();
    for (const ManifestEntry& entry : row.weights) {
      nlohmann::ordered_json file = {{"name", weights_name(entry)}, {"licence", entry.licence}};
      if (entry.top1 > 0) file["top1"] = entry.top1;
      if (entry.mib > 0) file["mib"] = entry.mib;
      weights.push_back(std::move(file));
    }
    list.push_back({{"model", row.name},
                    {"parameters", row.parameters},
                    {"mib", row.mib},
                    {"image_size", row.image_size},
                    {"weights", std::move(weights)}});
  }
  return print_json(list) + '\n';
}

}  // namespace

int list_models(const Command& command) {
  const auto options = parse_options<ModelsOptions>(command);
  if (!options) return 0;
  const auto manifest = read_manifest(options->manifest.value_or(shared_file("manifest.json")));
  std::vector<ModelRow> rows;
  for (const std::string& name : model_names()) rows.push_back(row_of(name, manifest));
  print_to_stdout(options->json ? json_of(rows) : table(rows));
  return 0;
}

}  // namespace engine

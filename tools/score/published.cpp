#include "tools/score/published.h"

#include <fmt/format.h>

#include <algorithm>
#include <variant>

#include "engine/error.h"
#include "io/files/cache_folder.h"
#include "io/weights/fetch.h"
#include "tools/cli/byte_progress.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// Whether it can only be a file: it is one, or has a folder or an ending that names have not.
bool is_path(const fs::path& weights) {
  std::error_code error;
  return fs::exists(weights, error) || weights.has_parent_path() ||
         weights.extension() == ".safetensors";
}

// Where `weights` is no file and no run: the entry of that name.
std::variant<NamedWeights, ManifestEntry> look_up(const fs::path& weights,
                                                  const std::string& model) {
  std::error_code error;
  const fs::path best = weights / "weights" / "best.safetensors";
  if (fs::exists(best, error)) return NamedWeights{best, model};
  const bool folder = fs::is_directory(weights, error);  // perhaps of images, beside a name
  if (!folder && is_path(weights)) return NamedWeights{weights, model};
  const auto manifest = read_manifest(shared_file("manifest.json"));
  const std::string name = weights.string();
  require(name != "imagenet" || !model.empty(), Failure::usage,
          "--weights imagenet: of which model? Give --model");
  const ManifestEntry* entry = find_entry(manifest, name, model);
  require(entry || !folder, Failure::weights,
          "{}: a folder, and no run's: weights/best.safetensors is not there", name);
  require(entry, Failure::usage,
          "--weights {}: there is no such file, and no such name in engine weights list{}", name,
          name == "imagenet" ? fmt::format(" for {}", model) : "");
  require(model.empty() || model == entry->model, Failure::usage,
          "--weights {}: these are of {}, and --model is {}", name, entry->model, model);
  return *entry;
}

}  // namespace

fs::path weights_folder() {
  return cache_folder() / "weights";
}

fs::path fetch_published(const ManifestEntry& entry) {
  ByteProgress progress("fetching " + entry.names.front());
  bool fetched = false;
  const auto tell = [&](const std::string& line) {
    progress.clear();
    say(line);
  };
  const fs::path file = fetch_weights(entry, weights_folder(),
                                      {.say = tell,
                                       .progress =
                                           [&](int64_t done, int64_t whole) {
                                             fetched = true;
                                             progress.show(done, whole);
                                           },
                                       .stop = stop_requested});
  if (fetched)
    tell(fmt::format("{}: SHA-256 {} as published; licence {}; kept as {}", entry.source,
                     entry.sha256.size() < 64 ? "begins with " + entry.sha256 + "," : "is",
                     entry.licence, file.string()));
  return file;
}

std::optional<Preprocess> published_preprocess(const fs::path& file) {
  std::error_code error;
  const fs::path list = shared_file("manifest.json");
  if (!fs::exists(list, error)) return std::nullopt;  // the program alone, without its folder
  for (const ManifestEntry& entry : read_manifest(list))
    if (!entry.preprocess.empty() &&
        std::ranges::find(entry.names, file.filename().string()) != entry.names.end())
      return preprocess_from_json(entry.preprocess);
  return std::nullopt;
}

NamedWeights find_weights(const fs::path& weights, const std::string& model) {
  const auto found = look_up(weights, model);
  if (const auto* named = std::get_if<NamedWeights>(&found)) return *named;
  const auto& entry = std::get<ManifestEntry>(found);
  return {fetch_published(entry), entry.model};
}

std::optional<ManifestEntry> still_to_fetch(const fs::path& weights, const std::string& model) {
  const auto found = look_up(weights, model);
  const auto* entry = std::get_if<ManifestEntry>(&found);
  if (!entry || is_as_published(place_of(*entry, weights_folder()), *entry)) return std::nullopt;
  return *entry;
}

}  // namespace engine

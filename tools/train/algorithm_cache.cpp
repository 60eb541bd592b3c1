#include "tools/train/algorithm_cache.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/checksum.h"
#include "io/files/json.h"

namespace engine {

namespace fs = std::filesystem;
using nlohmann::json;

AlgorithmCache::AlgorithmCache(const fs::path& folder, const std::string& identity)
    : identity_(identity),
      path_(folder / "algorithms" /
            fmt::format("{:016x}.json", xxh64(std::as_bytes(std::span(identity))))) {}

AlgorithmCache::Choices AlgorithmCache::load() const {
  std::ifstream file(path_);
  std::stringstream stream;
  stream << file.rdbuf();
  const json known = json_or_null<json>(std::move(stream).str());
  if (!known.is_object() || known.value("identity", json()) != identity_) return {};
  Choices choices;
  const json chosen = known.value("chosen", json::object());
  if (!chosen.is_object()) return {};
  for (const auto& [key, name] : chosen.items())
    if (name.is_string()) choices.emplace(key, name.get<std::string>());
  return choices;
}

void AlgorithmCache::add(const Choices& chosen) const {
  Choices all = chosen;
  const Choices known = load();
  all.insert(known.begin(), known.end());
  if (all == known) return;
  try {
    make_folder(path_.parent_path());
    const json values = {{"identity", identity_}, {"chosen", all}};
    write_file_atomically(path_, print_json(values, 2) + '\n');
  } catch (const Error&) {
    return;
  }
}

}  // namespace engine

// What the metadata of weight files and of checkpoints say of a model, as texts.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace engine {

// `names`, which may be any bytes (utf8.h), as a JSON array, and back.
std::string to_json(const std::vector<std::string>& names);
std::vector<std::string> names_from_json(const std::string& json,
                                         const std::filesystem::path& path);

// The epsilon of batch norms that a file's metadata names, if any; Error(weights) if it is none.
std::optional<double> norm_epsilon_of(const std::map<std::string, std::string>& metadata,
                                      const std::filesystem::path& path);

}  // namespace engine

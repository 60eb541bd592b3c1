// What lies between weight files and sessions: which model and how many classes a file is for,
// loading it, and making the run's own files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "io/images/preprocess.h"
#include "models/models.h"
#include "tools/cli/options.h"

namespace engine {

// The names that shells and the help offer for --model.
inline Suggest known_models() {
  return {model_names()};
}

// A weight file, with torchvision's names, and what its metadata says.
struct ModelFile {
  std::filesystem::path path;
  TensorFile file;
  std::string model;
  std::vector<std::string> classes;  // empty: the file does not say
  std::optional<Preprocess> preprocess;
  int class_count = 0;  // rows of its head; 0: it has none
};

// `model` is used where the metadata names none; a contradiction is an Error(usage).
ModelFile read_model_file(const std::filesystem::path& path, const std::string& model);

// Throws Error(weights) if the file's tensors are not those of the graph.
void check_model_file(const Graph& graph, const ModelFile& file);

// Loads every tensor. `new_head` allows a head of another size; its tensors are then initialised,
// and the result lists them.
std::vector<std::string> load_model_file(Session& session, const ModelFile& file, bool new_head,
                                         uint64_t seed);

// A weight file: weights, running statistics and counters by torchvision's names, and the classes
// and preprocessing in the metadata.
TensorFile model_file(const std::string& model, std::map<std::string, Tensor> tensors,
                      const std::vector<std::string>& classes, const Preprocess& preprocess);

Normalisation normalisation_of(const Preprocess& preprocess);

// `names` as a JSON array, and back.
std::string to_json(const std::vector<std::string>& names);
std::vector<std::string> names_from_json(const std::string& json,
                                         const std::filesystem::path& path);

}  // namespace engine

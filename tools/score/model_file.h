// What lies between weight files and sessions: which model and how many classes a file is for,
// loading it, and making the run's own files.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "io/images/preprocess.h"
#include "models/models.h"
#include "tools/cli/options.h"
#include "tools/score/metadata.h"

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
  Task task = Task::classes;         // what the head's outputs are: one of them, or several labels
  std::optional<Preprocess> preprocess;
  std::optional<double> norm_epsilon;  // of its batch norms, where the file tells
  int class_count = 0;                 // rows of its head; 0: it has none
  Decisions decisions;                 // of the training that it is from
};

// The flag of every verb that reads weights of others.
struct WeightsKeyOption {
  std::string weights_key;
  void visit_weights_key(auto& v) {
    v("--weights-key KEY", weights_key,
      "the member of a .pth that holds the weights (default: averages, then state_dict, model, …)",
      kMayChange);
  }
};

// `weights` is a file, a run or a published name (find_weights()). `model` is used where the
// metadata names none; a contradiction is an Error(usage). `weights_key` is as in ReadOptions; what
// is chosen and what is passed over is said.
ModelFile read_model_file(const std::filesystem::path& weights, const std::string& model,
                          const std::string& weights_key = "");

// The graph of the file's model, with its head and its epsilon, for square images.
Graph make_model(const ModelFile& file, int image_size);

// Throws Error(weights) if the file's tensors are not those of the graph.
void check_model_file(const Graph& graph, const ModelFile& file);

// Loads every tensor. Error(weights) if the head is not of the graph's size.
void load_model_file(Session& session, const ModelFile& file);

// Throws Error(weights) if a training of the graph cannot start from the file: tensors other than
// those of the head differ.
void check_start(const Graph& graph, const ModelFile& file);

// Loads what a training of `classes` starts from. A head whose names are these in another order is
// put into their order; a head of other names, of another size or of another task than the
// session's, or none, starts anew, from `seed`. Returns a line that says what became of the head;
// empty if it is as in the file.
std::string start_from(Session& session, const ModelFile& file,
                       const std::vector<std::string>& classes, uint64_t seed);

// A weight file of a graph: weights, running statistics and counters by torchvision's names; model,
// epsilon, classes, preprocessing and, of several labels, the task in the metadata.
TensorFile model_file(const Graph& graph, std::map<std::string, Tensor> tensors,
                      const std::vector<std::string>& classes, const Preprocess& preprocess,
                      Task task = Task::classes);

Normalisation normalisation_of(const Preprocess& preprocess);

}  // namespace engine

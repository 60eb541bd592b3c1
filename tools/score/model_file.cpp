#include "tools/score/model_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/utf8.h"
#include "io/weights/safetensors.h"
#include "io/weights/weight_names.h"
#include "io/weights/weights.h"

namespace engine {

namespace {

namespace fs = std::filesystem;

constexpr char kCounter[] = ".num_batches_tracked";

const Parameter& head_weight(const Graph& graph) {
  return *std::find_if(graph.parameters.begin(), graph.parameters.end(),
                       [](const Parameter& p) { return p.head; });
}

std::vector<Expected> expected_tensors(const Graph& graph) {
  std::vector<Expected> expected;
  for (const Parameter& p : graph.parameters) expected.push_back({p.name, p.shape, p.head});
  for (const Norm& n : graph.norms) expected.push_back({n.name + kCounter, {}, false, true});
  return expected;
}

}  // namespace

std::string to_json(const std::vector<std::string>& names) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& name : names) list.push_back(utf8_from_bytes(name));
  return list.dump();
}

std::vector<std::string> names_from_json(const std::string& text, const fs::path& path) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto is_string = [](const nlohmann::json& j) { return j.is_string(); };
  require(json.is_array() && std::all_of(json.begin(), json.end(), is_string), Failure::weights,
          "{}: the class names in its metadata are no JSON array of strings", path.string());
  std::vector<std::string> names;
  for (const auto& name : json) names.push_back(bytes_from_utf8(name.get<std::string>()));
  return names;
}

Normalisation normalisation_of(const Preprocess& preprocess) {
  Normalisation n;
  std::copy(preprocess.mean.begin(), preprocess.mean.end(), n.mean);
  std::copy(preprocess.std.begin(), preprocess.std.end(), n.std);
  return n;
}

ModelFile read_model_file(const fs::path& path, const std::string& model) {
  ModelFile m{.path = path, .file = read_weights(path), .model = model};
  const auto& metadata = m.file.metadata;
  require(!metadata.contains("state_sha256"), Failure::usage,
          "{}: a checkpoint, for --resume; the weights of its run are in {}", path.string(),
          (fs::absolute(path).parent_path().parent_path() / "weights").string());
  if (const auto it = metadata.find("model"); it != metadata.end()) {
    require(model.empty() || model == it->second, Failure::usage, "--model {}: {} holds {}", model,
            path.string(), it->second);
    m.model = it->second;
  }
  require(!m.model.empty(), Failure::usage, "{} does not say which model it is for: give --model",
          path.string());
  normalise_names(m.file, m.model);
  if (const auto it = metadata.find("classes"); it != metadata.end())
    m.classes = names_from_json(it->second, path);
  if (const auto it = metadata.find("preprocess"); it != metadata.end())
    m.preprocess = preprocess_from_json(it->second);
  const Preprocess usual = default_preprocess(m.model);
  const Graph graph = make_model(m.model, {.height = usual.crop, .width = usual.crop});
  const auto head = m.file.tensors.find(head_weight(graph).name);
  if (head != m.file.tensors.end() && !head->second.shape.empty())
    m.class_count = static_cast<int>(head->second.shape[0]);
  require(m.classes.empty() || m.class_count == static_cast<int>(m.classes.size()),
          Failure::weights, "{}: {} class names, but a head of {}", path.string(), m.classes.size(),
          m.class_count);
  return m;
}

void check_model_file(const Graph& graph, const ModelFile& m) {
  const Matched matched = match_weights(m.file, expected_tensors(graph), m.path);
  require(matched.reinitialised.empty(), Failure::weights, "{}: its head has {} classes, not {}",
          m.path.string(), m.class_count, graph.classes());
}

std::vector<std::string> load_model_file(Session& session, const ModelFile& m, bool new_head,
                                         uint64_t seed) {
  const Graph& graph = session.graph();
  const Matched matched = match_weights(m.file, expected_tensors(graph), m.path);
  require(new_head || matched.reinitialised.empty(), Failure::weights,
          "{}: its head has {} classes, not {}", m.path.string(), m.class_count, graph.classes());
  std::map<std::string, Tensor> tensors = m.file.tensors;
  for (const std::string& name : matched.reinitialised) {
    const auto p = std::find_if(graph.parameters.begin(), graph.parameters.end(),
                                [&](const Parameter& parameter) { return parameter.name == name; });
    tensors[name] = Tensor(DType::f32, p->shape);  // until initialise()
  }
  session.load(tensors);
  if (!matched.reinitialised.empty()) session.initialise(matched.reinitialised, seed);
  return matched.reinitialised;
}

TensorFile model_file(const std::string& model, std::map<std::string, Tensor> tensors,
                      const std::vector<std::string>& classes, const Preprocess& preprocess) {
  return {
      .tensors = std::move(tensors),
      .metadata = {
          {"model", model}, {"classes", to_json(classes)}, {"preprocess", to_json(preprocess)}}};
}

}  // namespace engine

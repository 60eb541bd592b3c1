#include "tools/score/model_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "engine/error.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"
#include "io/weights/weight_names.h"
#include "io/weights/weights.h"
#include "tools/score/published.h"

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

// For each name of `to` its position in `from`; empty unless both are the same names.
std::vector<size_t> positions(const std::vector<std::string>& from,
                              const std::vector<std::string>& to) {
  if (!std::is_permutation(from.begin(), from.end(), to.begin(), to.end())) return {};
  std::vector<size_t> places;
  for (const std::string& name : to)
    places.push_back(size_t(std::find(from.begin(), from.end(), name) - from.begin()));
  return places;
}

// The rows of the first dimension in another order.
Tensor reordered(const Tensor& tensor, const std::vector<size_t>& rows) {
  Tensor result(tensor.dtype, tensor.shape);
  const size_t bytes = tensor.bytes.size() / rows.size();
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(result.bytes.data() + i * bytes, tensor.bytes.data() + rows[i] * bytes, bytes);
  return result;
}

std::vector<std::string> head_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Parameter& p : graph.parameters)
    if (p.head) names.push_back(p.name);
  return names;
}

// Loads the file with a head that is initialised.
void load_without_head(Session& session, std::map<std::string, Tensor> tensors,
                       const std::vector<std::string>& head, uint64_t seed) {
  for (const Parameter& p : session.graph().parameters)
    if (p.head) tensors[p.name] = Tensor(DType::f32, p.shape);  // until initialise()
  session.load(tensors);
  session.initialise(head, seed);
}

}  // namespace

Normalisation normalisation_of(const Preprocess& preprocess) {
  Normalisation n;
  std::copy(preprocess.mean.begin(), preprocess.mean.end(), n.mean);
  std::copy(preprocess.std.begin(), preprocess.std.end(), n.std);
  return n;
}

ModelFile read_model_file(const fs::path& weights, const std::string& wanted_model,
                          const std::string& weights_key) {
  const auto [path, model] = find_weights(weights, wanted_model);
  const ReadOptions options{.key = weights_key, .say = [](const std::string& line) { say(line); }};
  ModelFile m{.path = path, .file = read_weights(path, options), .model = model};
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
  else
    m.preprocess = published_preprocess(path);
  m.norm_epsilon = norm_epsilon_of(metadata, path);
  m.task = task_of(metadata, path);
  m.decisions = decisions_of(metadata, path);
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

Graph make_model(const ModelFile& m, int image_size) {
  return make_model(m.model, {.classes = m.class_count,
                              .height = image_size,
                              .width = image_size,
                              .norm_epsilon = m.norm_epsilon});
}

namespace {

// The first model that the file's tensors are of, but perhaps for the head; empty: none.
std::string model_of(const ModelFile& m) {
  for (const std::string& name : model_names()) {
    try {
      match_weights(m.file, expected_tensors(make_model(name, {})), m.path);
      return name;
    } catch (const Error&) {
      continue;
    }
  }
  return "";
}

Matched match(const Graph& graph, const ModelFile& m) {
  try {
    return match_weights(m.file, expected_tensors(graph), m.path);
  } catch (const Error& error) {
    const std::string model = model_of(m);
    if (model.empty()) throw;
    fail(error.kind, "{}; they are those of --model {}", error.what(), model);
  }
}

}  // namespace

void check_model_file(const Graph& graph, const ModelFile& m) {
  const Matched matched = match(graph, m);
  require(matched.reinitialised.empty(), Failure::weights, "{}: its head has {} classes, not {}",
          m.path.string(), m.class_count, graph.classes());
}

void load_model_file(Session& session, const ModelFile& m) {
  check_model_file(session.graph(), m);
  session.load(m.file.tensors);
}

void check_start(const Graph& graph, const ModelFile& m) {
  match(graph, m);
}

std::string start_from(Session& session, const ModelFile& m,
                       const std::vector<std::string>& classes, uint64_t seed) {
  const Graph& graph = session.graph();
  const Matched matched = match_weights(m.file, expected_tensors(graph), m.path);
  const std::vector<std::string> head = head_names(graph);
  const bool fits = matched.reinitialised.empty();
  const bool same_task = m.classes.empty() || m.task == session.options().loss.task;
  const bool same_names = m.classes.empty() || m.classes == classes;
  if (fits && same_names && same_task) {
    session.load(m.file.tensors);
    return "";
  }
  std::map<std::string, Tensor> tensors = m.file.tensors;
  if (const auto rows = positions(m.classes, classes); fits && same_task && !rows.empty()) {
    for (const std::string& name : head) tensors[name] = reordered(tensors[name], rows);
    session.load(tensors);
    return fmt::format("{}: its classes have another order: the rows of {} follow their names",
                       m.path.string(), fmt::join(head, ", "));
  }
  load_without_head(session, std::move(tensors), head, seed);
  const std::string why = m.class_count == 0 ? "it has no head"
                          : !same_task && m.task == Task::labels
                              ? "its outputs are labels, not classes"
                          : !same_task ? "its outputs are classes, not labels"
                          : fits ? fmt::format("its {} classes have other names", m.class_count)
                                 : fmt::format("its head has {} classes, this data set {}",
                                               m.class_count, graph.classes());
  return fmt::format("{}: {}: {} start anew", m.path.string(), why, fmt::join(head, ", "));
}

TensorFile model_file(const Graph& graph, std::map<std::string, Tensor> tensors,
                      const std::vector<std::string>& classes, const Preprocess& preprocess,
                      Task task) {
  TensorFile file{.tensors = std::move(tensors),
                  .metadata = {{"model", graph.model},
                               {"classes", to_json(classes)},
                               {"preprocess", to_json(preprocess)}}};
  if (task == Task::labels) file.metadata[kTask] = kMultilabel;
  if (!graph.norms.empty())
    file.metadata[kNormEpsilon] = fmt::format("{}", graph.norms.front().eps);
  return file;
}

}  // namespace engine

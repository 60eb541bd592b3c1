// engine export: a weight file as an ONNX model.
#include <fmt/format.h>

#include "engine/error.h"
#include "tools/cli/terminal.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/onnx_graph.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"
#include "tools/score/metadata.h"
#include "tools/score/model_file.h"

namespace engine {
namespace {

struct ExportOptions : PreprocessOptions, WeightsKeyOption {
  std::filesystem::path weights, onnx;
  std::string model;
  OnnxOptions how;

  void visit(auto& v) {
    v("WEIGHTS", weights, "safetensors or .pth, or a run", kRequired);
    v("--onnx FILE", onnx, "the model to write; opset 13, any batch size", kRequired);
    v("--model NAME", model, "needed where the weight file does not name it", known_models());
    visit_weights_key(v);
    v("--fold-norms", how.fold_norms, "batch norms become part of the convolution before them");
    v("--with-normalisation", how.with_normalisation,
      "the model takes bytes (batch, H, W, C) as decoded, not normalised floats (batch, C, H, W)");
    visit_preprocess(v);
  }
};

}  // namespace

int export_model(const Command& command) {
  const auto options = parse_options<ExportOptions>(command);
  if (!options) return 0;
  const ExportOptions& o = *options;
  const ModelFile file = read_model_file(o.weights, o.model, o.weights_key);
  require(file.class_count > 0, Failure::weights, "{} has no head", o.weights.string());
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, o, 0);
  const Graph graph = make_model(file, preprocess.crop);
  check_model_file(graph, file);
  OnnxModel model = to_onnx(graph, file.file.tensors, preprocess, o.how);
  model.producer_version = std::string(kBuild.version);
  model.metadata = {{"model", file.model}, {"preprocess", to_json(preprocess)}};
  if (!file.classes.empty()) model.metadata["classes"] = to_json(file.classes);
  put_decisions(model.metadata, file.decisions);
  if (file.task == Task::labels) {
    model.metadata[kTask] = kMultilabel;
    say("the outputs are logits of labels: a sigmoid makes the probability of each");
  }
  write_onnx(o.onnx, model);
  say(fmt::format("{}: {}, {} nodes, {} classes; {}", o.onnx.string(), file.model,
                  model.nodes.size(), file.class_count, describe(preprocess)));
  return 0;
}

}  // namespace engine

// Every model as ONNX: complete, in order, with the folding that was asked for.
#include "tools/engine/onnx_graph.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/initialise.h"
#include "models/models.h"
#include "tests/support.h"

using namespace engine;

namespace {

std::map<std::string, Tensor> some_weights(const Graph& graph) {
  std::map<std::string, Tensor> tensors;
  for (size_t p = 0; p < graph.parameters.size(); ++p) {
    Tensor t = initial_value(graph, static_cast<int>(p), 1);
    if (graph.parameters[p].shape.size() == 1)
      for (size_t i = 0; i < t.as<float>().size(); ++i) t.as<float>()[i] += 0.1f * float(i % 7 + 1);
    tensors[graph.parameters[p].name] = std::move(t);
  }
  return tensors;
}

std::map<std::string, Tensor> zero_weights(const Graph& graph) {
  std::map<std::string, Tensor> tensors;
  for (const Parameter& p : graph.parameters) tensors[p.name] = Tensor(DType::f32, p.shape);
  return tensors;
}

Graph make(const std::string& name) {
  const int size = name == "mnist_cnn" ? 28 : 64;
  return make_model(name, {.classes = 5, .height = size, .width = size});
}

int64_t count(const OnnxModel& model, const std::string& op) {
  return std::count_if(model.nodes.begin(), model.nodes.end(),
                       [&](const OnnxNode& n) { return n.op == op; });
}

const Tensor& initializer(const OnnxModel& model, const std::string& name) {
  return std::find_if(model.initializers.begin(), model.initializers.end(),
                      [&](const auto& i) { return i.first == name; })
      ->second;
}

}  // namespace

TEST_CASE("every value is made once and before it is read, and nothing is left over") {
  for (const std::string& name : model_names())
    for (const bool fold : {false, true}) {
      const Graph graph = make(name);
      const OnnxModel model = to_onnx(graph, zero_weights(graph), default_preprocess(name),
                                      {.fold_norms = fold, .with_normalisation = fold});
      CAPTURE(name);
      std::set<std::string> known = {model.inputs[0].name}, read;
      for (const auto& [initial, tensor] : model.initializers)
        CHECK_MESSAGE(known.insert(initial).second, initial);
      for (const OnnxNode& n : model.nodes) {
        for (const std::string& input : n.inputs)
          CHECK_MESSAGE(known.contains(input), n.name << " reads " << input);
        read.insert(n.inputs.begin(), n.inputs.end());
        CHECK_MESSAGE(known.insert(n.output).second, n.output);
      }
      known.erase("logits");
      CHECK(known == read);
      CHECK(model.nodes.back().output == "logits");
      CHECK(model.outputs[0].shape == Shape{0, 5});
    }
}

TEST_CASE("the operators are those of the model") {
  const Graph b0 = make("efficientnet_b0"), dense = make("densenet121");
  const auto weights = some_weights(b0), dense_weights = some_weights(dense);
  const Preprocess p = default_preprocess("efficientnet_b0");
  const OnnxModel plain = to_onnx(b0, weights, p, {}), folded = to_onnx(b0, weights, p, {true});
  CHECK(count(plain, "BatchNormalization") == 49);
  CHECK(count(folded, "BatchNormalization") == 0);
  CHECK(count(plain, "Conv") == 49 + 2 * 16);  // and two in each squeeze-excite
  CHECK(count(folded, "Conv") == 49 + 2 * 16);
  CHECK(count(plain, "Add") == 9);
  CHECK(plain.inputs[0].shape == Shape{0, 3, 64, 64});

  const OnnxModel raw = to_onnx(dense, dense_weights, p, {}),
                  inner = to_onnx(dense, dense_weights, p, {true, true});
  CHECK(count(raw, "BatchNormalization") == 121);
  // The stem's and the second one of each of the 58 layers; the others read several outputs.
  CHECK(count(inner, "BatchNormalization") == 121 - 1 - 58);
  CHECK(count(raw, "Concat") == 58);
  CHECK(count(raw, "MaxPool") == 1);
  CHECK(count(raw, "Gemm") == 1);
  CHECK(count(inner, "Transpose") == 1);
  CHECK(inner.inputs[0].dtype == DType::u8);
  CHECK(inner.inputs[0].shape == Shape{0, 64, 64, 3});
}

// weight · gamma / √(var + eps) and beta − mean · gamma / √(var + eps).
TEST_CASE("a folded convolution has its norm's scale and shift") {
  const Graph graph = make("efficientnet_b5");  // eps 1e-3
  const auto weights = some_weights(graph);
  const OnnxModel model =
      to_onnx(graph, weights, default_preprocess("efficientnet_b5"), {.fold_norms = true});
  const auto value = [&](const std::string& name, int i) {
    return double{weights.at("features.0." + name).as<float>()[i]};
  };
  const Tensor &weight = initializer(model, "features.0.0.folded.weight"),
               &bias = initializer(model, "features.0.0.folded.bias");
  CHECK(weight.shape == weights.at("features.0.0.weight").shape);
  for (const int c : {0, 17, 47}) {
    const double scale = value("1.weight", c) / std::sqrt(value("1.running_var", c) + 1e-3);
    for (int i = c * 27; i < (c + 1) * 27; ++i)
      CHECK(weight.as<float>()[i] == doctest::Approx(value("0.weight", i) * scale).epsilon(1e-6));
    CHECK(bias.as<float>()[c] ==
          doctest::Approx(value("1.bias", c) - value("1.running_mean", c) * scale).epsilon(1e-6));
  }
}

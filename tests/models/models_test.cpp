// Compares the models with what is published about them: numbers of parameters, torchvision's names
// and shapes of tensors, and the sizes stage by stage.
#include "models/models.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "engine/error.h"
#include "engine/initialise.h"
#include "io/weights/manifest.h"
#include "tests/support.h"

using namespace engine;

namespace {

struct Published {
  const char* model;
  int64_t parameters;
  size_t tensors;  // with batch counters
};

// torchvision 0.14, 1000 classes: sum(p.numel()), len(state_dict()).
constexpr Published kPublished[] = {
    {"efficientnet_b0", 5'288'548, 360},     {"efficientnet_b1", 7'794'184, 508},
    {"efficientnet_b2", 9'109'994, 508},     {"efficientnet_b3", 12'233'232, 574},
    {"efficientnet_b4", 19'341'616, 706},    {"efficientnet_b5", 30'389'784, 854},
    {"efficientnet_b6", 43'040'704, 986},    {"efficientnet_b7", 66'347'960, 1200},
    {"densenet121", 7'978'856, 727},         {"densenet161", 28'681'000, 967},
    {"densenet169", 14'149'480, 1015},       {"densenet201", 20'013'928, 1207},
    {"mobilenet_v2", 3'504'872, 314},        {"efficientnet_v2_s", 21'458'488, 782},
    {"efficientnet_v2_m", 54'139'356, 1120}, {"resnet18", 11'689'512, 122},
    {"resnet34", 21'797'672, 218},           {"resnet50", 25'557'032, 320},
    {"resnet101", 44'549'160, 626},          {"resnet152", 60'192'808, 932},
};

// The tensors that a state dict holds, batch counters included.
std::map<std::string, Shape> tensors_of(const Graph& graph) {
  std::map<std::string, Shape> tensors;
  for (const Parameter& p : graph.parameters) CHECK(tensors.emplace(p.name, p.shape).second);
  for (const Norm& n : graph.norms)
    CHECK(tensors.emplace(n.name + ".num_batches_tracked", Shape{}).second);
  return tensors;
}

// "height x width x channels" of what the step `name` writes, or of the whole of a shared buffer.
std::string extent(const Graph& graph, const std::string& name) {
  for (const Step& step : graph.steps)
    if (const Slice* out = output_of(step); out && name_of(step) == name) {
      const Buffer& b = graph.buffers[out->buffer];
      return fmt::format("{}x{}x{}", b.height, b.width, b.channels);
    }
  return "no step " + name;
}

const Norm& norm(const Graph& graph, const std::string& name) {
  for (const Norm& n : graph.norms)
    if (n.name == name) return n;
  FAIL("no norm " << name);
  return graph.norms[0];
}

}  // namespace

TEST_CASE("models have the published numbers of parameters and tensors") {
  for (const Published& p : kPublished) {
    const Graph graph = make_model(p.model, {});
    CHECK_MESSAGE(graph.trained_parameters() == p.parameters, p.model);
    CHECK_MESSAGE(tensors_of(graph).size() == p.tensors, p.model);
    CHECK(graph.model == p.model);
  }
  const Graph b3 = make_model("efficientnet_b3", {.classes = 35});
  CHECK(b3.trained_parameters() == 10'750'027);
  CHECK(tensors_of(b3).size() == 574);
  CHECK(b3.norms.size() == 78);
  CHECK(fmt::format("{:.2f}", b3.trained_parameters() * 4 / 1048576.) == "41.01");
  CHECK(make_model("densenet121", {}).parameters.size() == 606);
  CHECK(make_model("densenet121", {.classes = 10}).trained_parameters() == 6'964'106);
  // PyTorch's MNIST example: 320 + 18,496 + 1,179,776 + 1,290.
  CHECK(make_model("mnist_cnn", {.classes = 10, .height = 28, .width = 28}).trained_parameters() ==
        1'199'882);
}

// A file of tests/golden/names has a line "name dimension…" for each tensor of torchvision's
// state_dict() with 1000 classes.
TEST_CASE("tensors have torchvision's names and shapes") {
  for (const char* model : {"efficientnet_b0", "efficientnet_b3", "efficientnet_b7",
                            "efficientnet_v2_s", "efficientnet_v2_m", "densenet121", "densenet161",
                            "resnet18", "resnet50", "mobilenet_v2"}) {
    std::ifstream file(fmt::format("{}/tests/golden/names/{}.txt", ENGINE_SOURCE_DIR, model));
    REQUIRE(file);
    std::map<std::string, Shape> expected;
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string name;
      words >> name;
      Shape& shape = expected[name];
      for (int64_t d; words >> d;) shape.push_back(d);
    }
    const auto ours = tensors_of(make_model(model, {}));
    CHECK(ours.size() == expected.size());
    for (const auto& [name, shape] : expected) {
      const auto it = ours.find(name);
      REQUIRE_MESSAGE(it != ours.end(), model << " lacks " << name);
      CHECK_MESSAGE(it->second == shape, model << ": " << name << " " << to_string(it->second)
                                               << ", torchvision's " << to_string(shape));
    }
  }
}

// What the manifest says of a model, the digest of its tensors' names and shapes too, comes from
// torchvision.
TEST_CASE("all models but the digits' are in the manifest, with the names and shapes there") {
  const auto manifest = read_manifest(ENGINE_SOURCE_DIR "/weights/manifest.json");
  for (const std::string& name : model_names()) {
    if (name == "mnist_cnn") continue;
    const auto entry = std::ranges::find(manifest, name, &ManifestEntry::model);
    REQUIRE_MESSAGE(entry != manifest.end(), name);
    const Graph graph = make_model(name, {});
    TensorFile file;
    for (const auto& [tensor, shape] : tensors_of(graph)) file.tensors[tensor].shape = shape;
    CHECK_MESSAGE(layout_digest(file) == entry->layout, name);
    CHECK_MESSAGE(int64_t(file.tensors.size()) == entry->tensors, name);
    CHECK_MESSAGE(int64_t(graph.norms.size()) == entry->counters, name);
    CHECK_MESSAGE(graph.trained_parameters() == entry->parameters, name);
  }
}

TEST_CASE("EfficientNet-B3 shrinks as the paper's table says") {
  const std::string steps[] = {"features.0.0",           "features.1.1.add", "features.2.2.add",
                               "features.3.2.add",       "features.4.4.add", "features.5.4.add",
                               "features.6.5.add",       "features.7.1.add", "features.8.0",
                               "features.2.0.block.3.0", "avgpool",          "classifier.1"};
  const std::map<int, std::vector<std::string>> expected = {
      {224,
       {"112x112x40", "112x112x24", "56x56x32", "28x28x48", "14x14x96", "14x14x136", "7x7x232",
        "7x7x384", "7x7x1536", "56x56x32", "1x1x1536", "1x1x35"}},
      {300,
       {"150x150x40", "150x150x24", "75x75x32", "38x38x48", "19x19x96", "19x19x136", "10x10x232",
        "10x10x384", "10x10x1536", "75x75x32", "1x1x1536", "1x1x35"}}};
  for (const auto& [size, extents] : expected) {
    const Graph graph =
        make_model("efficientnet_b3", {.classes = 35, .height = size, .width = size});
    for (size_t i = 0; i < extents.size(); ++i)
      CHECK_MESSAGE(extent(graph, steps[i]) == extents[i], steps[i] << " at " << size);
  }
}

TEST_CASE("DenseNet121 shrinks as the paper's table says") {
  const std::string steps[] = {"features.conv0",
                               "features.pool0",
                               "features.denseblock1.denselayer6.conv2",
                               "features.denseblock2.denselayer12.conv2",
                               "features.denseblock3.denselayer24.conv2",
                               "features.denseblock4.denselayer16.conv2",
                               "features.denseblock3.denselayer7.conv1",
                               "features.transition2.conv",
                               "avgpool",
                               "classifier"};
  const std::map<int, std::vector<std::string>> expected = {
      {224,
       {"112x112x64", "56x56x256", "56x56x256", "28x28x512", "14x14x1024", "7x7x1024", "14x14x128",
        "14x14x1024", "1x1x1024", "1x1x1000"}},
      {300,
       {"150x150x64", "75x75x256", "75x75x256", "37x37x512", "18x18x1024", "9x9x1024", "18x18x128",
        "18x18x1024", "1x1x1024", "1x1x1000"}}};
  for (const auto& [size, extents] : expected) {
    const Graph graph = make_model("densenet121", {.height = size, .width = size});
    for (size_t i = 0; i < extents.size(); ++i)
      CHECK_MESSAGE(extent(graph, steps[i]) == extents[i], steps[i] << " at " << size);
  }
}

TEST_CASE("ResNet-50 shrinks as the paper's table says, in its 3x3 convolutions") {
  const std::string steps[] = {"conv1",          "maxpool",        "layer1.0.downsample.0",
                               "layer1.2.add",   "layer2.0.conv1", "layer2.0.conv2",
                               "layer2.0.conv3", "layer2.3.add",   "layer3.5.add",
                               "layer4.2.add",   "avgpool",        "fc"};
  const std::map<int, std::vector<std::string>> expected = {
      {224,
       {"112x112x64", "56x56x64", "56x56x256", "56x56x256", "56x56x128", "28x28x128", "28x28x512",
        "28x28x512", "14x14x1024", "7x7x2048", "1x1x2048", "1x1x1000"}},
      {97,
       {"49x49x64", "25x25x64", "25x25x256", "25x25x256", "25x25x128", "13x13x128", "13x13x512",
        "13x13x512", "7x7x1024", "4x4x2048", "1x1x2048", "1x1x1000"}}};
  for (const auto& [size, extents] : expected) {
    const Graph graph = make_model("resnet50", {.height = size, .width = size});
    for (size_t i = 0; i < extents.size(); ++i)
      CHECK_MESSAGE(extent(graph, steps[i]) == extents[i], steps[i] << " at " << size);
  }
  const Graph basic = make_model("resnet34", {});
  CHECK(extent(basic, "layer2.0.conv1") == "28x28x128");
  CHECK(extent(basic, "layer4.2.add") == "7x7x512");
}

TEST_CASE("EfficientNetV2 shrinks as its paper's table says") {
  const auto check = [](const char* model, int size,
                        const std::vector<std::pair<std::string, std::string>>& extents) {
    const Graph graph = make_model(model, {.height = size, .width = size});
    for (const auto& [step, expected] : extents)
      CHECK_MESSAGE(extent(graph, step) == expected, model << ": " << step);
  };
  check("efficientnet_v2_s", 384,
        {{"features.0.0", "192x192x24"},
         {"features.1.1.add", "192x192x24"},
         {"features.2.0.block.0.0", "96x96x96"},
         {"features.2.3.add", "96x96x48"},
         {"features.3.3.add", "48x48x64"},
         {"features.4.5.add", "24x24x128"},
         {"features.5.8.add", "24x24x160"},
         {"features.6.14.add", "12x12x256"},
         {"features.7.0", "12x12x1280"}});
  check("efficientnet_v2_m", 480,
        {{"features.1.2.add", "240x240x24"},
         {"features.3.4.add", "60x60x80"},
         {"features.5.13.add", "30x30x176"},
         {"features.7.4.add", "15x15x512"},
         {"features.8.0", "15x15x1280"}});
}

TEST_CASE("norms have torchvision's eps and momentum") {
  for (int b = 0; b <= 7; ++b) {
    const Graph graph = make_model(fmt::format("efficientnet_b{}", b), {});
    for (const Norm& n : graph.norms) {
      CHECK(n.eps == (b < 5 ? 1e-5 : 1e-3));
      CHECK(n.momentum == (b < 5 ? 0.1 : 0.01));
    }
  }
  for (const char* model : {"efficientnet_v2_s", "efficientnet_v2_m"})
    for (const Norm& n : make_model(model, {}).norms) {
      CHECK(n.eps == 1e-3);
      CHECK(n.momentum == 0.1);
    }
  for (const Norm& n : make_model("resnet50", {}).norms) {
    CHECK(n.eps == 1e-5);
    CHECK(n.momentum == 0.1);
  }
  for (const char* model : {"efficientnet_b5", "densenet121", "resnet18", "mobilenet_v2"})
    for (const Norm& n : make_model(model, {.norm_epsilon = 1e-4}).norms) CHECK(n.eps == 1e-4);
  CHECK(norm(make_model("densenet201", {}), "features.norm5").eps == 1e-5);
  CHECK(norm(make_model("densenet201", {}), "features.norm5").momentum == 0.1);
}

// torchvision drops block i of n with probability 0.2·i/n; the dropout of the head depends on the
// variant.
TEST_CASE("random gates follow torchvision's schedule, and can be left out") {
  std::map<std::string, const Gate*> random;
  const auto dropped = [&](const std::string& name) { return 1 - random.at(name)->keep; };
  const Graph v2 = make_model("efficientnet_v2_s", {});
  for (const Gate& g : v2.gates)
    if (!g.learned) random[g.name] = &g;
  REQUIRE(random.size() == 35);  // 35 residual blocks of forty less the first, and the head
  CHECK(dropped("features.1.1.stochastic_depth") == doctest::Approx(0.2 * 1 / 40));
  CHECK(dropped("features.6.14.stochastic_depth") == doctest::Approx(0.2 * 39 / 40));
  CHECK(dropped("classifier.0") == doctest::Approx(0.2));
  random.clear();
  const Graph graph = make_model("efficientnet_b0", {});
  for (const Gate& g : graph.gates)
    if (!g.learned) random[g.name] = &g;
  REQUIRE(random.size() == 10);  // nine residual blocks of sixteen, and the head
  CHECK(dropped("features.2.1.stochastic_depth") == doctest::Approx(0.2 * 2 / 16));
  CHECK(dropped("features.6.3.stochastic_depth") == doctest::Approx(0.2 * 14 / 16));
  CHECK(random.at("features.6.3.stochastic_depth")->whole_image);
  CHECK(dropped("classifier.0") == doctest::Approx(0.2));
  CHECK_FALSE(random.at("classifier.0")->whole_image);
  for (const char* model : {"efficientnet_b0", "efficientnet_v2_s"}) {
    const Graph plain = make_model(model, {.dropout = false, .stochastic_depth = false});
    for (const Gate& g : plain.gates) CHECK(g.learned);
  }
  CHECK(make_model("resnet50", {}).gates.empty());
}

TEST_CASE("squeeze widths follow the block's input") {
  const Graph graph = make_model("efficientnet_b3", {});
  std::map<std::string, int> squeezed;
  for (const Gate& g : graph.gates)
    if (g.learned) squeezed[g.name] = g.squeezed;
  CHECK(squeezed.size() == 26);
  CHECK(squeezed.at("features.1.0.block.1") == 10);  // 40 / 4
  CHECK(squeezed.at("features.2.0.block.2") == 6);   // 24 / 4
  CHECK(squeezed.at("features.7.1.block.2") == 96);  // 384 / 4
  squeezed.clear();
  const Graph v2 = make_model("efficientnet_v2_s", {});
  for (const Gate& g : v2.gates)
    if (g.learned) squeezed[g.name] = g.squeezed;
  CHECK(squeezed.size() == 30);                       // the first three stages squeeze nothing
  CHECK(squeezed.at("features.4.0.block.2") == 16);   // 64 / 4
  CHECK(squeezed.at("features.6.14.block.2") == 64);  // 256 / 4
}

TEST_CASE("an unknown model is refused with the known names") {
  CHECK_THROWS_WITH_AS(make_model("resnet51", {}),
                       doctest::Contains("no model resnet51; known are efficientnet_b0, "), Error);
  CHECK(model_names().size() == 21);
}

TEST_CASE("an image that is too small is refused") {
  CHECK_THROWS_WITH_AS(make_model("densenet121", {.height = 20, .width = 20}),
                       doctest::Contains("the image is too small"), Error);
}

// ---------------------------------------------------------------- a new head

namespace {

struct Spread {
  double mean = 0, deviation = 0, largest = 0;
};

Spread spread_of(const Tensor& tensor) {
  Spread spread;
  const auto values = tensor.as<float>();
  double squares = 0;
  for (const float v : values) {
    spread.mean += v / double(values.size());
    squares += double(v) * v / double(values.size());
    spread.largest = std::max(spread.largest, std::abs(double(v)));
  }
  spread.deviation = std::sqrt(squares - spread.mean * spread.mean);
  return spread;
}

// The parameters of the head: its weight, then its bias.
std::vector<int> head_of(const Graph& graph) {
  std::vector<int> head;
  for (size_t p = 0; p < graph.parameters.size(); ++p)
    if (graph.parameters[p].head) head.push_back(static_cast<int>(p));
  REQUIRE(head.size() == 2);
  return head;
}

Graph with_published_head(Graph graph) {
  graph.initialisation.published_head = true;
  return graph;
}

}  // namespace

TEST_CASE("the head of every model starts as torch.nn.Linear does") {
  constexpr int kClasses = 1000;
  for (const std::string& name : model_names()) {
    const int size = name == "mnist_cnn" ? 28 : 64;
    const Graph graph = make_model(name, {.classes = kClasses, .height = size, .width = size});
    const std::vector<int> head = head_of(graph);
    const double bound = 1 / std::sqrt(double(graph.parameters[head[0]].shape[1]));
    for (const int parameter : head) {
      const Spread spread = spread_of(initial_value(graph, parameter, 1));
      INFO(name, " ", graph.parameters[parameter].name);
      CHECK(spread.largest <= bound);
      CHECK(spread.largest > 0.98 * bound);
      CHECK(std::abs(spread.mean) < 0.1 * bound);
      CHECK(spread.deviation == doctest::Approx(bound / std::sqrt(3.)).epsilon(0.05));
    }
  }
}

TEST_CASE("a published head starts by torchvision's rule for the model") {
  const ModelOptions options{.classes = 400, .height = 64, .width = 64};
  const Graph efficient = with_published_head(make_model("efficientnet_b0", options));
  const Graph dense = with_published_head(make_model("densenet121", options));
  const Graph mobile = with_published_head(make_model("mobilenet_v2", options));
  const Graph residual = with_published_head(make_model("resnet18", options));  // nn.Linear's
  CHECK(spread_of(initial_value(residual, head_of(residual)[1], 1)).largest ==
        doctest::Approx(1 / std::sqrt(512.)).epsilon(0.02));
  for (const Graph* graph : {&efficient, &dense, &mobile})
    CHECK(spread_of(initial_value(*graph, head_of(*graph)[1], 1)).largest == 0);
  const auto weight = [](const Graph& graph) {
    return spread_of(initial_value(graph, head_of(graph)[0], 1));
  };
  CHECK(weight(efficient).largest == doctest::Approx(1 / std::sqrt(400.)).epsilon(0.01));
  CHECK(weight(dense).largest == doctest::Approx(1 / std::sqrt(1024.)).epsilon(0.01));
  CHECK(weight(residual).largest == doctest::Approx(1 / std::sqrt(512.)).epsilon(0.01));
  CHECK(weight(mobile).deviation == doctest::Approx(0.01).epsilon(0.02));
}

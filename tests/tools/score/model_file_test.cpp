// What a weight file becomes in a session: its head, its epsilon, and what its metadata may say.
#include "tools/score/model_file.h"

#include <doctest/doctest.h>

#include <cmath>

#include "engine/error.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"
#include "tests/support.h"
#include "tools/score/decisions.h"
#include "tools/score/metadata.h"
#include "tools/score/published.h"

using namespace engine;
using namespace engine::test;

namespace {

using Names = std::vector<std::string>;

struct Network {
  explicit Network(int classes, Task task = Task::classes)
      : backend(make_reference_backend({})),
        session(mnist_cnn({.classes = classes, .height = 28, .width = 28}), *backend,
                {.programs = {{1, Mode::evaluate}}, .loss = {.task = task}}) {
    session.initialise(7);
  }
  std::vector<float> bias() const {
    const auto state = session.state();
    const auto values = state.at("fc2.bias").as<float>();
    return {values.begin(), values.end()};
  }

  std::unique_ptr<Backend> backend;
  Session session;
};

// The weights of a network whose head has the bias 1, 2, 3, …
ModelFile file_of(const Names& classes) {
  const Network source(static_cast<int>(classes.size()));
  ModelFile file{.path = "f", .model = "mnist_cnn", .classes = classes};
  file.file.tensors = source.session.state();
  file.class_count = static_cast<int>(classes.size());
  const auto bias = file.file.tensors.at("fc2.bias").as<float>();
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i + 1);
  return file;
}

std::string started(Network& network, const ModelFile& file, const Names& classes) {
  return start_from(network.session, file, classes, 1);
}

}  // namespace

TEST_CASE("a head follows the names of its classes, or starts anew") {
  const ModelFile file = file_of({"cat", "dog", "fox"});
  Network network(3);
  CHECK(started(network, file, {"cat", "dog", "fox"}).empty());
  CHECK(network.bias() == std::vector<float>{1, 2, 3});

  CHECK(started(network, file, {"fox", "cat", "dog"}) ==
        "f: its classes have another order: the rows of fc2.weight, fc2.bias follow their names");
  CHECK(network.bias() == std::vector<float>{3, 1, 2});
  const Tensor& before = file.file.tensors.at("fc2.weight");
  const auto state = network.session.state();
  const auto row = [](const Tensor& t, size_t i) {
    const auto values = t.as<float>().subspan(i * t.shape[1], t.shape[1]);
    return std::vector<float>(values.begin(), values.end());
  };
  CHECK(row(state.at("fc2.weight"), 0) == row(before, 2));
  CHECK(row(state.at("fc2.weight"), 1) == row(before, 0));

  CHECK(started(network, file, {"cat", "dog", "wolf"}) ==
        "f: its 3 classes have other names: fc2.weight, fc2.bias start anew");
  CHECK(network.bias() != std::vector<float>{1, 2, 3});
  for (const float value : network.bias()) {  // as torch.nn.Linear, whose inputs are 128
    CHECK(value != 0);
    CHECK(std::abs(value) <= 1 / std::sqrt(128.f));
  }
  CHECK(network.session.state().at("fc1.weight").bytes == file.file.tensors.at("fc1.weight").bytes);

  ModelFile nameless = file;
  nameless.classes.clear();
  CHECK(started(network, nameless, {"x", "y", "z"}).empty());
  CHECK(network.bias() == std::vector<float>{1, 2, 3});
}

TEST_CASE("training starts from a file with another head or without one; other verbs do not") {
  Network network(2);
  ModelFile file = file_of({"cat", "dog", "fox"});
  CHECK(started(network, file, {"cat", "dog"}) ==
        "f: its head has 3 classes, this data set 2: fc2.weight, fc2.bias start anew");
  CHECK_THROWS_WITH_AS(load_model_file(network.session, file), "f: its head has 3 classes, not 2",
                       Error);
  file.file.tensors.erase("fc2.weight");
  CHECK_THROWS_WITH_AS(started(network, file, {"cat", "dog"}),
                       doctest::Contains("does not fit the model: 1 missing (fc2.weight)"), Error);
  file.file.tensors.erase("fc2.bias");
  file.classes.clear();
  file.class_count = 0;
  CHECK(started(network, file, {"cat", "dog"}) ==
        "f: it has no head: fc2.weight, fc2.bias start anew");
  CHECK(network.session.state().at("fc1.weight").bytes == file.file.tensors.at("fc1.weight").bytes);
}

// The pictures of a published file are prepared as its publisher says, under either name of it.
TEST_CASE("a published file brings its own preprocessing, any other the model's") {
  for (const ManifestEntry& entry : read_manifest(ENGINE_SOURCE_DIR "/weights/manifest.json")) {
    const Preprocess usual = default_preprocess(entry.model);
    const Preprocess own =
        published_preprocess("some/folder/" + entry.names.back()).value_or(usual);
    CHECK_MESSAGE((own == usual) == entry.preprocess.empty(), entry.names.back());
    CHECK(own.crop == usual.crop);
  }
  CHECK(published_preprocess("resnet50-11ad3fa6.pth")->resize_height == 232);
  CHECK_FALSE(published_preprocess("resnet50-0676ba61.pth"));
  CHECK(describe(*published_preprocess("efficientnet_b1-c27df63c.pth")) ==
        "resize 255 bilinear, crop 240, mean 0.485 0.456 0.406, std 0.229 0.224 0.225");

  const TemporaryFolder folder;
  const Graph graph = make_model("resnet18", {.classes = 2});
  TensorFile file;
  for (size_t p = 0; p < graph.parameters.size(); ++p)
    file.tensors[graph.parameters[p].name] = Tensor(DType::f32, graph.parameters[p].shape);
  const auto resize_of = [&](const char* name) {
    const std::filesystem::path path = folder.path() / name;
    write_safetensors(path, file);
    return read_model_file(path, "resnet18").preprocess.value_or(Preprocess{}).resize_height;
  };
  CHECK(resize_of("mine.pth") == 256);
  CHECK(resize_of("resnet101-cd907fc2.pth") == 232);
  file.metadata["preprocess"] = to_json(Preprocess{.resize_height = 300});
  CHECK(resize_of("resnet152-f82ba261.pth") == 300);
}

TEST_CASE("the weights of a run are its best; a folder that is no run's is said to be none") {
  const TemporaryFolder folder;
  const std::filesystem::path run = folder.path() / "first";
  CHECK_THROWS_WITH_AS(find_weights(folder.path(), "resnet18"),
                       doctest::Contains("a folder, and no run's"), Error);
  std::filesystem::create_directories(run / "weights");
  CHECK_THROWS_WITH_AS(find_weights(run, ""), doctest::Contains("weights/best.safetensors"), Error);
  write_safetensors(run / "weights" / "best.safetensors", {});
  CHECK(find_weights(run, "").file == run / "weights" / "best.safetensors");
  CHECK(find_weights(run / "weights" / "best.safetensors", "").file ==
        run / "weights" / "best.safetensors");
}

TEST_CASE("a head of another task starts anew, one of labels follows their names") {
  ModelFile file = file_of({"ring", "star"});
  Network labels(2, Task::labels);
  CHECK(mentions(started(labels, file, {"ring", "star"}), "its outputs are classes, not labels"));
  CHECK(labels.bias() != std::vector<float>{1, 2});
  file.task = Task::labels;
  CHECK(started(labels, file, {"ring", "star"}).empty());
  CHECK(labels.bias() == std::vector<float>{1, 2});
  CHECK(mentions(started(labels, file, {"star", "ring"}), "have another order"));
  CHECK(labels.bias() == std::vector<float>{2, 1});
  Network classes(2);
  CHECK(mentions(started(classes, file, {"ring", "star"}), "its outputs are labels, not classes"));
}

TEST_CASE("weight files of several labels say so, and thresholds are added") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "w.safetensors";
  const Network source(2, Task::labels);
  const Graph graph = mnist_cnn({.classes = 2, .height = 28, .width = 28});
  const Preprocess usual = default_preprocess("mnist_cnn");
  write_sealed(path, model_file(graph, source.session.state(), {"a", "b"}, usual));
  CHECK(read_model_file(path, "").task == Task::classes);
  write_sealed(path, model_file(graph, source.session.state(), {"a", "b"}, usual, Task::labels));
  CHECK(read_model_file(path, "").task == Task::labels);
  store_decisions(path, {.thresholds = Thresholds{.rule = "youden", .classes = {{"a", 0.25}}}});
  const ModelFile read = read_model_file(path, "");
  CHECK(read.task == Task::labels);
  REQUIRE(read.decisions.thresholds);
  CHECK(read.decisions.thresholds->classes[0].threshold == 0.25);
  CHECK(read.file.tensors.at("fc2.bias").bytes == source.session.state().at("fc2.bias").bytes);
  CHECK_THROWS_WITH_AS(task_of({{"task", "regression"}}, "f"), doctest::Contains("is no task"),
                       Error);
}

TEST_CASE("a model computes with the epsilon of its weights and writes it") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "w.safetensors";
  const Graph usual = make_model("efficientnet_b0", {.classes = 2});
  const auto epsilon_after = [&](const Graph& graph, const char* text) {
    TensorFile file = model_file(graph, {}, {}, default_preprocess("efficientnet_b0"));
    if (text) file.metadata["norm_epsilon"] = text;
    write_safetensors(path, file);
    ModelFile read = read_model_file(path, "");
    read.class_count = 2;
    return make_model(read, 32).norms.front().eps;
  };
  CHECK(epsilon_after(usual, nullptr) == 1e-5);
  CHECK(epsilon_after(make_model("efficientnet_b0", {.norm_epsilon = 0.00025}), nullptr) ==
        0.00025);
  for (const char* text : {"", "x", "-1", "0", "nan", "1e-5 ", "2"})
    CHECK_THROWS_WITH_AS(epsilon_after(usual, text), doctest::Contains("no epsilon"), Error);
}

TEST_CASE("metadata that nests is refused before it is parsed, as are numbers beyond double") {
  CHECK(names_from_json(R"(["a","[[[[[[[[[[[[[[[[[[[["])", "f").size() == 2);
  const std::string deep(200'000, '[');
  CHECK_THROWS_WITH_AS(names_from_json(deep, "f"), doctest::Contains("no JSON array"), Error);
  CHECK_THROWS_WITH_AS(preprocess_from_json(deep), doctest::Contains("nests deeper"), Error);
  CHECK_THROWS_WITH_AS(preprocess_from_json("[1e999]"), doctest::Contains("number overflow"),
                       Error);
}

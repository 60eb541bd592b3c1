// Which forms a convolution has on each backend, in which order, with which scratch and cost.
#include "engine/forms.h"

#include "engine/needs.h"
#include "engine/plan.h"
#include "models/models.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr int kBatch = 4, kSize = 12, kChannels = 16;
constexpr FormOptions kCuda{.batch = kBatch, .backend = BackendKind::cuda};
constexpr FormOptions kCpu{.batch = kBatch, .backend = BackendKind::cpu};
constexpr FormOptions kReference{.batch = kBatch, .backend = BackendKind::reference};
constexpr size_t kDense = size_t{kBatch} * kSize * kSize * kChannels * sizeof(float);

// A convolution of every kind. All but the first two read a norm with an activation.
Graph kinds() {
  Graph g("kinds", 1e-5, 0.1);
  Value v = g.conv(g.input(kSize, kSize, 3), "stem", {.out = kChannels, .kernel = 3});
  v = g.conv(v, "plain pointwise", {.out = kChannels});
  const auto layer = [&](const std::string& name, ConvOptions options) {
    options.out = kChannels;
    v = g.conv(g.silu(g.batch_norm(v, name + ".norm")), name, options);
  };
  layer("pointwise", {});
  layer("pointwise, stride 2", {.stride = 2});
  layer("dense", {.kernel = 3, .bias = true});
  for (int kernel : {3, 5, 7})
    layer("depthwise " + std::to_string(kernel), {.kernel = kernel, .depthwise = true});
  layer("depthwise, bias", {.kernel = 3, .depthwise = true, .bias = true});
  const int shared = g.buffer("shared", 2 * kChannels);
  for (const char* name : {"first slice", "second slice"})
    g.conv(v, name, {.out = kChannels, .kernel = 3, .into = shared});
  g.cross_entropy(g.linear(g.relu(g.placed(shared)), "linear", 10));
  return g;
}

const Conv& conv_of(const Graph& graph, const std::string& name) {
  for (const Step& step : graph.steps)
    if (const auto* conv = std::get_if<Conv>(&step); conv && conv->name == name) return *conv;
  FAIL("no convolution " << name);
  std::abort();
}

FormOptions with(FormOptions options, ConvForm conv) {
  options.conv = conv;
  return options;
}

}  // namespace

TEST_CASE("the forms of a convolution, in the order of preference") {
  const Graph graph = kinds();
  struct Row {
    std::string name;
    std::string_view cuda, cpu;
  };
  const Row rows[] = {
      {"stem", "cuDNN", "oneDNN"},
      {"dense", "cuDNN", "oneDNN"},
      {"pointwise, stride 2", "cuDNN", "oneDNN"},
      {"plain pointwise", "cuBLASLt", "sgemm tiles"},
      {"pointwise", "cuBLASLt", "sgemm tiles"},
      {"linear", "cuBLASLt", "sgemm tiles"},
      {"depthwise 3", "fused depthwise | cuDNN", "fused depthwise"},
      {"depthwise 5", "fused depthwise | cuDNN", "fused depthwise"},
      {"depthwise 7", "cuDNN", "fused depthwise"},
      {"depthwise, bias", "cuDNN", "fused depthwise"},
  };
  for (const Row& row : rows)
    for (Direction direction : {Direction::forward, Direction::backward}) {
      CAPTURE(row.name);
      const auto names = [&](const FormOptions& options) {
        return names_of(candidates(graph, conv_of(graph, row.name), direction, options));
      };
      CHECK(names(kCuda) == row.cuda);
      CHECK(names(kCpu) == row.cpu);
      CHECK(names(kReference) == "loops");
    }
  const auto found = candidates(graph, conv_of(graph, "depthwise 3"), Direction::forward, kCuda);
  REQUIRE(found.size() == 2);
  CHECK(found[0].form == Form::fused_depthwise);
  CHECK(found[1].form == Form::library_convolution);
}

TEST_CASE("the banded depthwise form wants 16 bits, a norm, and backward a gated output") {
  Graph g("depthwise", 1e-5, 0.1);
  const Value image = g.conv(g.input(28, 28, 8), "stem", {.out = 24});
  const Value normed = g.batch_norm(image, "norm");
  const auto depthwise = [&](Value v, const std::string& name, int kernel, int stride) {
    v = g.conv(v, name, {.out = 24, .kernel = kernel, .stride = stride, .depthwise = true});
    v = g.silu(g.batch_norm(v, name + ".norm"));
    g.conv(g.scale(v, g.squeeze_excite(v, name + ".gate", 4)), name + ".project", {.out = 8});
  };
  depthwise(g.silu(normed), "silu", 5, 2);
  depthwise(normed, "normed", 3, 1);
  depthwise(normed, "normed, 5", 5, 1);
  depthwise(g.relu6(normed), "relu6", 3, 1);
  depthwise(image, "plain", 3, 1);
  g.conv(g.silu(normed), "ungated", {.out = 24, .kernel = 3, .depthwise = true});
  const auto names = [&](const std::string& name, Direction direction, Precision precision) {
    FormOptions options = kCuda;
    options.precision = precision;
    return names_of(candidates(g, conv_of(g, name), direction, options));
  };
  constexpr std::string_view kBanded = "banded depthwise | fused depthwise",
                             kOthers = "fused depthwise | cuDNN";
  for (Direction direction : {Direction::forward, Direction::backward}) {
    for (const char* name : {"silu", "normed"}) {
      CHECK(names(name, direction, Precision::fp16) == kBanded);
      CHECK(names(name, direction, Precision::bf16) == kBanded);
      CHECK(names(name, direction, Precision::tf32) == kOthers);
    }
    for (const char* name : {"normed, 5", "relu6", "plain"})
      CHECK(names(name, direction, Precision::fp16) == kOthers);
  }
  CHECK(names("ungated", Direction::forward, Precision::fp16) == kBanded);
  CHECK(names("ungated", Direction::backward, Precision::fp16) == kOthers);
}

TEST_CASE("the fused pointwise form wants 16 bits, packs of channels and no bias") {
  FormOptions half = kCuda;
  half.precision = Precision::fp16;
  Graph g("packs", 1e-5, 0.1);
  const Value image = g.input(32, 32, 8);
  g.conv(image, "large", {.out = 24});
  g.conv(image, "deep", {.out = 4096});
  Value small = g.conv(image, "halved", {.out = 8, .kernel = 3, .stride = 2});
  small = g.conv(small, "small", {.out = 8});
  g.conv(small, "wide", {.out = 136});
  g.conv(small, "biased", {.out = 8, .bias = true});
  g.conv(small, "odd", {.out = 12});
  g.conv(g.dropout(small, "dropped", 0.5f), "random gate", {.out = 8});
  const auto names = [&](const std::string& name, Direction direction, const FormOptions& options) {
    return names_of(candidates(g, conv_of(g, name), direction, options));
  };
  for (Direction direction : {Direction::forward, Direction::backward}) {
    const bool forward = direction == Direction::forward;
    const std::string first = forward ? "streamed pointwise | " : "joined pointwise | ",
                      fused = forward ? "fused pointwise" : "fused pointwise | mixed pointwise";
    CHECK(names("large", direction, half) == first + fused + " | cuBLASLt");
    const std::string ahead = forward ? "" : first;  // of a library, of small images
    CHECK(names("small", direction, half) == ahead + "cuBLASLt | " + fused);
    CHECK(names("small", direction, with(half, ConvForm::fused)) == ahead + fused);
    CHECK(names("small", direction, kCuda) == "cuBLASLt");
    for (const char* name : {"biased", "odd", "random gate"})
      CHECK(names(name, direction, half) == "cuBLASLt");
  }
  CHECK(names("deep", Direction::forward, half) ==
        "streamed pointwise | fused pointwise | cuBLASLt");
  CHECK(names("deep", Direction::backward, half) == "cuBLASLt");
  CHECK(names("wide", Direction::forward, half) ==
        "streamed pointwise | cuBLASLt | fused pointwise");
  CHECK(names("wide", Direction::backward, half) == "cuBLASLt | fused pointwise | mixed pointwise");
}

TEST_CASE("the narrow form wants a norm behind the layer, and fewer channels ahead of it") {
  FormOptions half = kCuda;
  half.precision = Precision::fp16;
  Graph g("expansions", 1e-5, 0.1);
  const Value image = g.conv(g.input(32, 32, 8), "stem", {.out = 64});
  const auto normed = [&](const std::string& name, Value from, int outs) {
    return g.batch_norm(g.conv(from, name, {.out = outs}), name + ".norm");
  };
  const Value wide = normed("expands", image, 256);
  normed("widest", image, 264);
  normed("keeps", image, 64);
  normed("reduces", wide, 64);
  g.conv(image, "bare", {.out = 256});
  const auto first = [&](const std::string& name, const FormOptions& options) {
    return candidates(g, conv_of(g, name), Direction::backward, options).front().form;
  };
  CHECK(first("expands", half) == Form::narrow_pointwise);
  CHECK(first("expands", kCuda) != Form::narrow_pointwise);
  for (const char* name : {"widest", "keeps", "reduces", "bare"})
    CHECK(first(name, half) != Form::narrow_pointwise);
  // Where weights beside those of the operand leave room for what is staged, they are folded.
  CHECK(first("widest", half) == Form::folded_pointwise);
  CHECK(first("widest", kCuda) != Form::folded_pointwise);
  normed("far too wide", wide, 1024);
  const Value halved = g.conv(image, "halved", {.out = 64, .kernel = 3, .stride = 2});
  normed("small", halved, 264);
  for (const char* name : {"expands", "keeps", "reduces", "bare", "far too wide", "small"})
    CHECK(first(name, half) != Form::folded_pointwise);
}

TEST_CASE("the fused dense form wants 16 bits, ReLU or nothing, and a window that keeps the size") {
  FormOptions half = kCuda;
  half.precision = Precision::fp16;
  Graph g("windows", 1e-5, 0.1);
  const Value image = g.conv(g.input(28, 28, 8), "stem", {.out = 48});
  const Value normed = g.batch_norm(image, "norm"), relu = g.relu(normed);
  g.conv(relu, "relu", {.out = 32, .kernel = 3});
  g.conv(normed, "normed", {.out = 48, .kernel = 3});
  g.conv(image, "plain", {.out = 64, .kernel = 3});
  g.conv(g.silu(normed), "silu", {.out = 32, .kernel = 3});
  g.conv(relu, "stride", {.out = 32, .kernel = 3, .stride = 2});
  g.conv(relu, "five", {.out = 32, .kernel = 5});
  g.conv(relu, "valid", {.out = 32, .kernel = 3, .padding = 0});
  g.conv(relu, "biased", {.out = 32, .kernel = 3, .bias = true});
  g.conv(relu, "odd", {.out = 36, .kernel = 3});
  g.conv(relu, "wide", {.out = 72, .kernel = 3});
  const auto names = [&](const std::string& name, Direction direction, const FormOptions& options) {
    return names_of(candidates(g, conv_of(g, name), direction, options));
  };
  for (Direction direction : {Direction::forward, Direction::backward}) {
    for (const char* name : {"relu", "normed", "plain"}) {
      CHECK(names(name, direction, half) == "fused dense | cuDNN");
      CHECK(names(name, direction, kCuda) == "cuDNN");
    }
    for (const char* name : {"silu", "stride", "five", "valid", "biased", "odd", "wide"})
      CHECK(names(name, direction, half) == "cuDNN");
  }
  const Candidate fused = candidates(g, conv_of(g, "relu"), Direction::backward, half)[0];
  CHECK(fused.scratch.operand == 0);
  CHECK(fused.scratch.output == 0);
  CHECK(fused.scratch.weight % (size_t{32} * 9 * 48 * sizeof(float)) == 0);
}

TEST_CASE("the fused stem form wants 16 bits, a plain image of three channels, and stride 2") {
  FormOptions half = kCuda;
  half.precision = Precision::fp16;
  struct Row {
    const char* name;
    int width, channels;
    ConvOptions conv;
    bool taken;
  };
  const Row rows[] = {
      {"three", 32, 3, {.out = 40, .kernel = 3, .stride = 2}, true},
      {"seven", 32, 3, {.out = 64, .kernel = 7, .stride = 2}, true},
      {"two groups", 32, 3, {.out = 96, .kernel = 7, .stride = 2}, true},
      {"five", 32, 3, {.out = 40, .kernel = 5, .stride = 2}, false},
      {"stride", 32, 3, {.out = 40, .kernel = 3}, false},
      {"gray", 32, 1, {.out = 40, .kernel = 3, .stride = 2}, false},
      {"odd width", 30, 3, {.out = 40, .kernel = 3, .stride = 2}, false},
      {"odd outs", 32, 3, {.out = 36, .kernel = 3, .stride = 2}, false},
      {"biased", 32, 3, {.out = 40, .kernel = 3, .stride = 2, .bias = true}, false}};
  for (const Row& row : rows) {
    Graph g("stems", 1e-5, 0.1);
    const Value v = g.conv(g.input(30, row.width, row.channels), "stem", row.conv);
    g.cross_entropy(g.linear(g.global_pool(g.relu(g.batch_norm(v, "norm")), "pool"), "head", 10));
    CAPTURE(row.name);
    for (const Direction direction : {Direction::forward, Direction::backward}) {
      const auto names = [&](const FormOptions& options) {
        return names_of(candidates(g, conv_of(g, "stem"), direction, options));
      };
      CHECK(names(half) == (row.taken ? "fused stem" : "cuDNN"));
      CHECK(names(with(half, ConvForm::library)) == "cuDNN");
      CHECK(names(kCuda) == "cuDNN");
      // The gradient of an image is left to the library.
      FormOptions fused = with(half, ConvForm::fused);
      fused.input_gradient = true;
      const bool forward = direction == Direction::forward;
      CHECK(names(fused) == (row.taken && forward ? "fused stem" : "cuDNN"));
    }
  }
}

TEST_CASE("--conv restricts the forms to a family, where there is one of it") {
  const Graph graph = kinds();
  const auto names = [&](const std::string& name, const FormOptions& options, ConvForm conv) {
    return names_of(
        candidates(graph, conv_of(graph, name), Direction::backward, with(options, conv)));
  };
  CHECK(names("depthwise 3", kCuda, ConvForm::fused) == "fused depthwise");
  CHECK(names("depthwise 3", kCuda, ConvForm::library) == "cuDNN");
  CHECK(names("dense", kCuda, ConvForm::fused) == "cuDNN");
  CHECK(names("pointwise", kCuda, ConvForm::fused) == "cuBLASLt");
  CHECK(names("depthwise 3", kCpu, ConvForm::library) == "fused depthwise");
  CHECK(names("pointwise", kReference, ConvForm::fused) == "loops");
}

TEST_CASE("each form asks for the scratch that it uses") {
  const Graph graph = kinds();
  const auto scratch = [&](const std::string& name, Direction direction, FormOptions options,
                           std::string_view form) {
    for (const Candidate& c : candidates(graph, conv_of(graph, name), direction, options))
      if (c.name == form) return c.scratch;
    FAIL(name << " has no form " << form);
    return Scratch{};
  };
  // A product reads a plain operand where it lies and accumulates the operand's gradient.
  for (Direction direction : {Direction::forward, Direction::backward}) {
    CHECK(scratch("plain pointwise", direction, kCuda, "cuBLASLt").operand == 0);
    CHECK(scratch("pointwise", direction, kCuda, "cuBLASLt").operand == kDense);
  }
  // The output is normed: its gradient is completed before the library reads it.
  CHECK(scratch("pointwise", Direction::forward, kCuda, "cuBLASLt").output == 0);
  CHECK(scratch("pointwise", Direction::backward, kCuda, "cuBLASLt").output == kDense);
  // cuDNN writes dense tensors, so a slice is copied.
  CHECK(scratch("stem", Direction::forward, kCuda, "cuDNN").output == 0);
  CHECK(scratch("first slice", Direction::forward, kCuda, "cuDNN").output > 0);
  // The gradient of the weights is float; cuDNN leaves it in the storage type.
  FormOptions half = kCuda;
  half.precision = Precision::fp16;
  const size_t weights = size_t{kChannels} * kChannels * 9;
  CHECK(scratch("dense", Direction::backward, kCuda, "cuDNN").weight == 0);
  CHECK(scratch("dense", Direction::backward, half, "cuDNN").weight == weights * 2);
  CHECK(scratch("pointwise", Direction::backward, half, "cuBLASLt").weight == 0);
  // The fused form keeps partial sums alone.
  for (Direction direction : {Direction::forward, Direction::backward}) {
    const Scratch fused = scratch("depthwise 3", direction, kCuda, "fused depthwise");
    CHECK(fused.operand == 0);
    CHECK(fused.output == 0);
    CHECK(fused.partials > 0);
    CHECK((fused.weight > 0) == (direction == Direction::backward));
  }
  // The other backends work in memory of their own.
  for (const FormOptions& options : {kCpu, kReference})
    for (Direction direction : {Direction::forward, Direction::backward})
      CHECK(candidates(graph, conv_of(graph, "dense"), direction, options)[0].scratch.total() == 0);
}

TEST_CASE("a batch without images needs nothing, whatever the model's forms") {
  for (const char* name : {"efficientnet_b0", "densenet121", "mobilenet_v2"})
    for (const Precision precision : {Precision::fp32, Precision::fp16}) {
      const Graph graph = make_model(name, {.classes = 10, .height = 64, .width = 64});
      const Plan plan =
          make_plan(graph, {.batch = 0, .precision = precision, .backend = kCuda.backend});
      CHECK(plan.activations == 0);
      for (const StepPlan& step : plan.steps) {
        CHECK(step.forward.weight.bytes == 0);
        CHECK(step.backward.weight.bytes == 0);
        CHECK(step.backward.partials.bytes == 0);
      }
    }
}

TEST_CASE("a step needs the largest scratch of its candidates") {
  const Graph graph = make_model("efficientnet_b0", {.classes = 10, .height = 64, .width = 64});
  for (Precision precision : {Precision::fp32, Precision::fp16})
    for (ConvForm conv : {ConvForm::automatic, ConvForm::fused, ConvForm::library}) {
      FormOptions options = with(kCuda, conv);
      options.precision = precision;
      for (const Step& step : graph.steps) {
        const auto* layer = std::get_if<Conv>(&step);
        if (!layer) continue;
        const StepNeeds needed = needs(graph, step, options);
        for (Direction direction : {Direction::forward, Direction::backward}) {
          const Scratch& ours = direction == Direction::forward ? needed.forward : needed.backward;
          Scratch largest;
          for (const Candidate& c : candidates(graph, *layer, direction, options)) {
            largest = larger(largest, c.scratch);
            CHECK(ours.total() >= c.scratch.total());
          }
          CHECK(ours.operand == largest.operand);
          CHECK(ours.output == largest.output);
          CHECK(ours.weight == largest.weight);
          CHECK(ours.partials == largest.partials);
        }
      }
    }
  for (const FormOptions& options : {kCpu, kReference})
    for (const Step& step : graph.steps) {
      const StepNeeds needed = needs(graph, step, options);
      CHECK(needed.forward.total() + needed.backward.total() == 0);
    }
}

TEST_CASE("every form has a cost, and a backward is two products") {
  for (const char* name : {"mnist_cnn", "efficientnet_b0", "densenet121"}) {
    const Graph graph = make_model(name, {.classes = 10, .height = 64, .width = 64});
    for (const FormOptions& options : {kCuda, kCpu, kReference})
      for (const Step& step : graph.steps) {
        const auto* layer = std::get_if<Conv>(&step);
        if (!layer) continue;
        const auto forward = candidates(graph, *layer, Direction::forward, options),
                   backward = candidates(graph, *layer, Direction::backward, options);
        for (const Candidate& c : forward) {
          CHECK_MESSAGE(c.cost.bytes > 0, layer->name);
          CHECK_MESSAGE(c.cost.flops == forward[0].cost.flops, layer->name);
        }
        for (const Candidate& c : backward) {
          CHECK_MESSAGE(c.cost.bytes > forward[0].cost.bytes, layer->name);
          CHECK_MESSAGE(c.cost.flops == 2 * forward[0].cost.flops, layer->name);
        }
      }
  }
}

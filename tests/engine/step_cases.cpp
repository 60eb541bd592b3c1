#include "tests/engine/step_cases.h"

#include <algorithm>
#include <cmath>

#include "engine/rng.h"
#include "tests/support.h"

namespace engine::test {
namespace {

Value norm_silu(Graph& g, Value v, const std::string& name) {
  return g.silu(g.batch_norm(v, name));
}
Value norm_relu(Graph& g, Value v, const std::string& name) {
  return g.relu(g.batch_norm(v, name));
}

// norm, SiLU, convolution, norm, SiLU.
StepCase convolution(std::string name, ConvOptions options) {
  return {std::move(name), [options](Graph& g, Value v) {
            ConvOptions o = options;
            o.out = o.depthwise ? v.channels : v.channels + 2;
            return norm_silu(g, g.conv(norm_silu(g, v, "before"), "step", o), "after");
          }};
}

// The convolution that models begin with.
StepCase beginning(int kernel) {
  return {.name = "an image by " + std::to_string(kernel) + ", stride 2",
          .build = [](Graph& g, Value v) { return norm_silu(g, v, "after"); },
          .first = {.kernel = kernel, .stride = 2}};
}

// What reads a gate: a depthwise layer before, a projection behind.
Value project(Graph& g, Value gated, int channels) {
  return norm_silu(g, g.conv(gated, "project", {.out = channels}), "after");
}

Value squeezed(Graph& g, Value v) {
  return g.scale(v, g.squeeze_excite(v, "step", std::max(1, v.channels / 4)));
}

Value depthwise(Graph& g, Value v) {
  return g.conv(norm_silu(g, v, "before"), "wide",
                {.out = v.channels, .kernel = 3, .depthwise = true});
}

// Two layers of a dense block behind a pool that opens it.
Value dense_block(Graph& g, Value v, int bottleneck, int growth) {
  const int dense = g.buffer("dense", v.channels + 2 * growth);
  g.max_pool(norm_relu(g, v, "before"), "pool", 3, 2, 1, dense);
  for (const std::string layer : {"layer1", "layer2"}) {
    Value y = norm_relu(g, g.placed(dense), layer + ".norm1");
    y = g.conv(y, layer + ".conv1", {.out = bottleneck});
    g.conv(norm_relu(g, y, layer + ".norm2"), layer + ".conv2",
           {.out = growth, .kernel = 3, .into = dense});
  }
  return norm_relu(g, g.placed(dense), "after");
}

// Bottlenecks of a ResNet: a shortcut of stride 2 with a norm of its own, then shortcuts that are
// the sum before, which is stored behind its ReLU.
Value bottlenecks(Graph& g, Value v, int wide, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const int stride = name == names.front() ? 2 : 1;
    Value y = norm_relu(g, g.conv(v, name + ".conv1", {.out = 8}), name + ".norm1");
    y = g.conv(y, name + ".conv2", {.out = 8, .kernel = 3, .stride = stride});
    y = g.conv(norm_relu(g, y, name + ".norm2"), name + ".conv3", {.out = wide});
    Value shortcut = v;
    if (stride == 2) {
      shortcut = g.conv(v, name + ".shortcut", {.out = wide, .stride = 2});
      shortcut = g.batch_norm(shortcut, name + ".shortcut.norm");
    }
    v = g.add(g.batch_norm(y, name + ".norm3"), shortcut, name + ".add", Activation::relu);
  }
  return v;
}

// What the models do not have: a buffer read raw and normed, a sum read by two norms, a value read
// three times.
Value composition(Graph& g, Value x) {
  x = g.add(x, g.conv(norm_relu(g, x, "n1"), "c1", {.out = x.channels, .kernel = 3, .bias = true}),
            "sum");
  const Value a = g.average_pool(norm_silu(g, x, "n2"), "a", 2);
  const Value b = g.max_pool(g.batch_norm(x, "n3"), "b", 3, 2, 1);
  const Value c = g.conv(b, "c2", {.out = b.channels});
  return g.relu(g.add(g.add(g.add(a, b, "ab"), b, "abb"), c, "abbc"));
}

std::vector<StepCase> convolutions() {
  const auto raw = [](ConvOptions options) {
    return [options](Graph& g, Value v) {
      ConvOptions o = options;
      o.out = v.channels + 2;
      return g.silu(g.conv(v, "step", o));
    };
  };
  return {
      convolution("pointwise", {}),
      convolution("pointwise, bias", {.bias = true}),
      convolution("pointwise, stride 2", {.stride = 2}),
      convolution("3x3", {.kernel = 3}),
      convolution("3x3, stride 2", {.kernel = 3, .stride = 2}),
      convolution("3x3, no padding", {.kernel = 3, .padding = 0}),
      convolution("3x3, padding 2, bias", {.kernel = 3, .padding = 2, .bias = true}),
      convolution("5x5", {.kernel = 5}),
      convolution("7x7, stride 2", {.kernel = 7, .stride = 2}),
      {"pointwise, plain operand and output", raw({.bias = true})},
      {"3x3, plain operand and output", raw({.kernel = 3, .bias = true})},
      {"3x3, ReLU without norm",
       [](Graph& g, Value v) {
         return norm_silu(g, g.conv(g.relu(v), "step", {.out = v.channels, .kernel = 3}), "after");
       },
       false, true},
      {"into slices of a shared buffer", [](Graph& g, Value v) { return dense_block(g, v, 4, 3); },
       false, true},
      {"into slices of whole packs", [](Graph& g, Value v) { return dense_block(g, v, 16, 8); },
       false, true},
      {"pointwise into slices of a shared buffer",
       [](Graph& g, Value v) {
         const int shared = g.buffer("shared", 2 * v.channels);
         for (const char* name : {"first", "second"})
           g.conv(v, name, {.out = v.channels, .bias = true, .into = shared});
         return norm_silu(g, g.placed(shared), "after");
       }},
      beginning(3),
      beginning(7),
      convolution("depthwise 3x3", {.kernel = 3, .depthwise = true}),
      convolution("depthwise 3x3, stride 2", {.kernel = 3, .stride = 2, .depthwise = true}),
      convolution("depthwise 5x5", {.kernel = 5, .depthwise = true}),
      convolution("depthwise 5x5, stride 2", {.kernel = 5, .stride = 2, .depthwise = true}),
      {"depthwise 3x3, plain operand",
       [](Graph& g, Value v) {
         return g.silu(g.conv(v, "step", {.out = v.channels, .kernel = 3, .depthwise = true}));
       }},
      {"linear over an image",
       [](Graph& g, Value v) { return g.silu(g.linear(norm_silu(g, v, "before"), "step", 7)); }},
      {"linear over a plain image",
       [](Graph& g, Value v) { return g.silu(g.linear(v, "step", 7)); }},
  };
}

std::vector<StepCase> gates_and_pools() {
  return {
      {"squeeze-excite",
       [](Graph& g, Value v) {
         return project(g, squeezed(g, norm_silu(g, depthwise(g, v), "gated")), v.channels);
       }},
      {"squeeze-excite behind a 5x5 of stride 2",
       [](Graph& g, Value v) {
         v = g.conv(norm_silu(g, v, "before"), "wide",
                    {.out = v.channels, .kernel = 5, .stride = 2, .depthwise = true});
         return project(g, squeezed(g, norm_silu(g, v, "gated")), v.channels);
       }},
      {"squeeze-excite in a branch whose operand has no activation",
       [](Graph& g, Value v) {
         const Value x = g.batch_norm(v, "before");
         const Value wide = g.conv(x, "wide", {.out = v.channels, .kernel = 3, .depthwise = true});
         const Value y = squeezed(g, norm_silu(g, wide, "gated"));
         return g.add(g.batch_norm(g.conv(y, "project", {.out = v.channels}), "after"), x, "sum");
       }},
      {"squeeze-excite, ReLU",
       [](Graph& g, Value v) {
         return project(g, squeezed(g, norm_relu(g, depthwise(g, v), "gated")), v.channels);
       },
       false, true},
      {"squeeze-excite, no norm",
       [](Graph& g, Value v) {
         return project(g, squeezed(g, g.silu(depthwise(g, v))), v.channels);
       }},
      {"squeeze-excite, no activation",
       [](Graph& g, Value v) {
         return project(g, squeezed(g, g.batch_norm(depthwise(g, v), "gated")), v.channels);
       }},
      {"squeeze-excite, 3x3 reads the gate",
       [](Graph& g, Value v) {
         const Value gated = squeezed(g, norm_silu(g, depthwise(g, v), "gated"));
         return norm_silu(g, g.conv(gated, "project", {.out = 4, .kernel = 3, .stride = 2}),
                          "after");
       }},
      {"squeeze-excite, a pool reads the gate",
       [](Graph& g, Value v) { return squeezed(g, norm_silu(g, depthwise(g, v), "gated")); }},
      {"dropout",
       [](Graph& g, Value v) {
         const Value dropped = g.dropout(norm_silu(g, v, "before"), "drop", 0.4f);
         return norm_silu(g, g.conv(dropped, "step", {.out = v.channels, .kernel = 3}), "after");
       }},
      {"dropout in front of a linear layer",
       [](Graph& g, Value v) {
         const Value pooled = g.global_pool(norm_silu(g, v, "before"), "pool");
         return g.silu(g.linear(g.dropout(pooled, "drop", 0.3f), "step", 6));
       }},
      {"dropout read by a pool",
       [](Graph& g, Value v) { return g.dropout(g.silu(v), "drop", 0.3f); }},
      {"max pool 3/2/1",
       [](Graph& g, Value v) { return g.max_pool(norm_silu(g, v, "before"), "step", 3, 2, 1); },
       false, true},
      {"max pool 2/2", [](Graph& g, Value v) { return g.silu(g.max_pool(v, "step", 2, 2)); }, false,
       true},
      {"average pool 2",
       [](Graph& g, Value v) {
         const Value pooled = g.average_pool(norm_silu(g, v, "before"), "step", 2);
         return norm_silu(g, pooled, "after");
       }},
      {"average pool 3", [](Graph& g, Value v) { return g.silu(g.average_pool(v, "step", 3)); }},
      {"global pool", [](Graph& g, Value v) { return norm_silu(g, v, "before"); }},
      {"global pool, plain operand", [](Graph&, Value v) { return v; }},
  };
}

std::vector<StepCase> sums() {
  const auto branch = [](Graph& g, Value v) {
    return g.conv(norm_silu(g, v, "before"), "branch", {.out = v.channels, .kernel = 3});
  };
  return {
      {"add, norm and plain",
       [=](Graph& g, Value v) {
         return g.silu(g.add(g.batch_norm(branch(g, v), "after"), v, "step"));
       }},
      {"add, plain and plain",
       [=](Graph& g, Value v) { return g.silu(g.add(v, branch(g, v), "step")); }},
      {"add, a value to itself", [](Graph& g, Value v) { return g.silu(g.add(v, v, "step")); }},
      {"add, two norms of one buffer",
       [](Graph& g, Value v) {
         return g.silu(g.add(norm_silu(g, v, "left"), norm_relu(g, v, "right"), "step"));
       },
       false, true},
      {"add, sum with a norm",
       [=](Graph& g, Value v) {
         return norm_silu(g, g.add(v, g.batch_norm(branch(g, v), "after"), "step"), "sum");
       }},
      {"add, two blocks on one chain",
       [](Graph& g, Value v) {
         for (const std::string block : {"one", "two"}) {
           const Value y = g.conv(v, block, {.out = v.channels, .kernel = 3});
           v = g.add(g.batch_norm(y, block + ".norm"), v, block + ".add");
         }
         return g.silu(v);
       }},
      {"add behind relu, norm and plain",
       [=](Graph& g, Value v) {
         v = g.conv(v, "plain", {.out = v.channels});
         return g.silu(g.add(g.batch_norm(branch(g, v), "after"), v, "step", Activation::relu));
       },
       false, true},
      {"add behind relu6, plain and plain",
       [=](Graph& g, Value v) { return g.silu(g.add(v, branch(g, v), "step", Activation::relu6)); },
       false, true},
      {"add behind relu, a value to itself",
       [](Graph& g, Value v) { return g.silu(g.add(v, v, "step", Activation::relu)); }, false,
       true},
      {"add behind relu, sum with a norm and a plain reader",
       [=](Graph& g, Value v) {
         v = g.add(v, g.batch_norm(branch(g, v), "after"), "step", Activation::relu);
         return g.silu(g.add(norm_silu(g, v, "sum"), v, "again"));
       },
       false, true},
      {"add behind relu, stochastic depth",
       [=](Graph& g, Value v) {
         const Value y = g.batch_norm(branch(g, v), "after");
         return g.silu(g.add(g.stochastic_depth(y, "drop", 0.4f), v, "step", Activation::relu));
       },
       false, true},
      {"add, stochastic depth",
       [=](Graph& g, Value v) {
         const Value y = g.batch_norm(branch(g, v), "after");
         return g.silu(g.add(g.stochastic_depth(y, "drop", 0.4f), v, "step"));
       }},
      {"add, dropout of a plain value",
       [=](Graph& g, Value v) {
         return g.silu(g.add(g.dropout(branch(g, v), "drop", 0.4f), v, "step"));
       }},
      {"add, norm with an activation and a gate, of a plain value",
       [](Graph& g, Value v) {
         Value y = g.conv(v, "branch", {.out = v.channels, .kernel = 3});
         y = g.stochastic_depth(norm_silu(g, y, "after"), "drop", 0.4f);
         return g.silu(g.add(y, v, "step"));
       }},
      {"add, 3x3 and pointwise of stride 2, 64 channels",
       [](Graph& g, Value v) {
         v = norm_silu(g, g.conv(v, "wide", {.out = 64}), "wide.norm");
         const Value y = g.conv(v, "branch", {.out = 64, .kernel = 3, .stride = 2});
         const Value x = g.conv(v, "shortcut", {.out = 64, .stride = 2});
         return g.silu(g.add(g.batch_norm(y, "after"), g.batch_norm(x, "shortcut.norm"), "step"));
       }},
      {"add, two bottlenecks",
       [](Graph& g, Value v) {
         return bottlenecks(g, v, 16, {"one", "two"});
       },
       false, true},
      {"add, three bottlenecks whose sums are wide",
       [](Graph& g, Value v) {
         return bottlenecks(g, v, 64, {"one", "two", "three"});
       },
       false, true},
      {"composition of readers", composition, true, true},
  };
}

float on_grid(float value) {
  return std::clamp(std::round(value * 64.f), -128.f, 128.f) / 64.f;
}

}  // namespace

const std::vector<StepCase>& step_cases() {
  static const std::vector<StepCase> rows = [] {
    std::vector<StepCase> all;
    for (const auto& part : {convolutions(), gates_and_pools(), sums()})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }();
  return rows;
}

const std::vector<StepSize>& step_sizes() {
  static const std::vector<StepSize> sizes = {{1, 1, 7, 9},   {3, 2, 9, 6},  {5, 5, 6, 7},
                                              {8, 1, 12, 11}, {16, 2, 8, 8}, {24, 5, 5, 7},
                                              {36, 2, 10, 9}};
  return sizes;
}

Graph make_graph(const StepCase& row, const StepSize& size) {
  const auto even = [&](int n) { return row.even_sizes ? (n + 1) / 2 * 2 : n; };
  Graph g("tiny", 1e-5, 0.1);
  const Value image = g.input(even(size.height), even(size.width), 3);
  ConvOptions first = row.first;
  first.out = size.channels;
  Value v = row.build(g, g.conv(image, "stem", first));
  v = g.global_pool(v, "ending.pool");
  g.cross_entropy(g.linear(v, "ending.linear", kStepClasses));
  return g;
}

// ---------------------------------------------------------------- data

std::map<std::string, Tensor> random_state(const Graph& graph, uint64_t seed) {
  std::map<std::string, Tensor> state;
  for (const Parameter& p : graph.parameters) {
    Tensor tensor(DType::f32, p.shape);
    Rng rng({.seed = seed, .purpose = purpose(p.name.c_str())});
    const bool positive = p.kind == Parameter::Kind::gain || p.kind == Parameter::Kind::running_var;
    const float bound = p.kind == Parameter::Kind::weight
                            ? std::sqrt(6.f * float(p.shape[0]) / float(elements(p.shape)))
                            : 0.5f;
    for (float& v : tensor.as<float>())
      v = on_grid((positive ? 1.f : 0.f) + rng.uniform(-bound, bound));
    state[p.name] = std::move(tensor);
  }
  return state;
}

std::vector<uint8_t> random_bytes(size_t count, uint64_t seed) {
  Rng rng({.seed = seed, .purpose = purpose("bytes")});
  std::vector<uint8_t> bytes(count);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng.below(256));
  return bytes;
}

std::vector<int32_t> random_labels(int count, int classes, uint64_t seed) {
  Rng rng({.seed = seed, .purpose = purpose("labels")});
  std::vector<int32_t> labels(count);
  for (int32_t& label : labels) label = static_cast<int32_t>(rng.below(classes));
  return labels;
}

std::vector<Presence> random_presence(int count, int labels, uint64_t seed) {
  Rng rng({.seed = seed, .purpose = purpose("presence")});
  std::vector<Presence> presence(size_t(count) * labels);
  for (Presence& p : presence) p = static_cast<Presence>(rng.below(3));
  return presence;
}

// ---------------------------------------------------------------- a step

namespace {

std::vector<double> wide(const Tensor& tensor) {
  const Tensor converted = convert(tensor, DType::f64);
  return {converted.as<double>().begin(), converted.as<double>().end()};
}

double norm_of(const std::vector<double>& values) {
  double square = 0;
  for (double v : values) square += v * v;
  return std::sqrt(square);
}

}  // namespace

StepOutcome run_step(const Graph& graph, int batch, Backend& backend, SessionOptions options,
                     bool input_gradient) {
  options.programs = {{batch, Mode::gradients}, {batch, Mode::evaluate}};
  options.input_gradient = input_gradient;
  options.normalisation = {{0.5f, 0.45f, 0.4f}, {0.25f, 0.25f, 0.25f}};
  options.loss_scale = 256;  // in half precision, as a training would; nothing overflows
  options.fixed_loss_scale = true;
  options.workspace = size_t{32} << 20;
  options.seed = 11;
  Session session(graph, backend, options);
  session.load(random_state(graph, 1));

  const Buffer& image = graph.buffers[graph.image.buffer];
  const auto images = random_bytes(size_t(batch) * image.height * image.width * image.channels, 2);
  // Labels that no row's logits are sure of: softmax − 1 would hold few digits in float.
  const auto labels = random_labels(batch, graph.classes(), 9);
  const HostBatch data{images.data(), labels.data(), batch};
  const StepInput input{.epoch = 1, .position = 40};

  StepOutcome outcome;
  outcome.loss = session.result(session.gradients(data, input)).loss;
  outcome.values["logits"] = session.logits(batch);
  const double scale = session.scale().scale;
  const auto unscaled = [&](std::vector<double> values) {
    for (double& v : values) v /= scale;
    return values;
  };
  if (input_gradient) outcome.values["input"] = unscaled(session.input_gradient(batch));
  for (const auto& [name, tensor] : session.gradients())
    outcome.values["gradient " + name] = unscaled(wide(tensor));
  const auto state = session.state();
  for (const Parameter& p : graph.parameters)
    if (!p.trained()) outcome.values["state " + p.name] = wide(state.at(p.name));
  const std::vector<float> evaluated = session.evaluate(data, input);
  outcome.values["evaluation"] = {evaluated.begin(), evaluated.end()};
  return outcome;
}

StepOutcome run_reference(const Graph& graph, int batch, bool frozen_norms, bool input_gradient) {
  const auto backend = make_reference_backend({.precision = Precision::fp64});
  return run_step(graph, batch, *backend,
                  {.precision = Precision::fp64, .frozen_norms = frozen_norms}, input_gradient);
}

Worst compare(const StepOutcome& ours, const StepOutcome& reference, double floor) {
  double all = 0;
  for (const auto& [name, values] : reference.values)
    if (name.starts_with("gradient")) all = std::hypot(all, norm_of(values));
  Worst worst{std::abs(ours.loss - reference.loss) / std::abs(reference.loss), "loss"};
  for (const auto& [name, theirs] : reference.values) {
    const std::vector<double>& mine = ours.values.at(name);
    std::vector<double> difference(theirs.size());
    for (size_t i = 0; i < theirs.size(); ++i) difference[i] = mine.at(i) - theirs[i];
    const double least = name.starts_with("gradient") || name == "input" ? floor * all : 0;
    const double error = norm_of(difference) / std::max({norm_of(theirs), least, 1e-300});
    if (!(error <= worst.error)) worst = {error, name};  // NaN is the worst
  }
  return worst;
}

void check_steps(Backend& backend, const SessionOptions& options, const Limits& limits) {
  Worst worst, worst_kinks;
  for (const StepCase& row : step_cases()) {
    const bool by_median = row.kinks && limits.kinks > 0;
    std::vector<double> errors;
    for (const StepSize& size : step_sizes()) {
      const Graph graph = make_graph(row, size);
      const bool of_input = row.input_gradient();
      Worst w =
          compare(run_step(graph, size.batch, backend, options, of_input),
                  run_reference(graph, size.batch, options.frozen_norms, of_input), limits.floor);
      errors.push_back(w.error);
      w.name += " of " + row.name;
      if (by_median) continue;
      CHECK_MESSAGE(w.error <= limits.error, size.channels << " channels, batch " << size.batch
                                                           << ": " << w.name << " off by "
                                                           << w.error);
      if (!(w.error <= worst.error)) worst = w;
    }
    if (!by_median) continue;
    std::sort(errors.begin(), errors.end());
    const Worst median{errors[errors.size() / 2], row.name};
    CHECK_MESSAGE(median.error <= limits.kinks, row.name << ": median " << median.error);
    CHECK_MESSAGE(std::isfinite(errors.back()), row.name);
    if (!(median.error <= worst_kinks.error)) worst_kinks = median;
  }
  MESSAGE(backend.info().description
          << ", " << name_of(options.precision) << ": worst " << worst.error << ", " << worst.name
          << "; worst median of rows with kinks " << worst_kinks.error << ", " << worst_kinks.name);
}

// ---------------------------------------------------------------- inputs and loss

namespace {

constexpr int kInputs = 4, kInputSide = 8;

Graph input_graph() {
  Graph g("inputs", 1e-5, 0.1);
  const Value image = g.input(kInputSide, kInputSide, 3);
  const Value v = norm_silu(g, g.conv(image, "stem", {.out = 8, .kernel = 3}), "norm");
  g.cross_entropy(g.linear(v, "fc", kStepClasses));
  return g;
}

// Stored images smaller and larger than the input; crops that overhang; every edit of the colours.
std::vector<ImageRecord> input_records() {
  std::vector<ImageRecord> records;
  for (int n = 0; n < kInputs; ++n) {
    const auto edit = [n](int i) { return static_cast<ColorEdit>(1 + (i + n) % kColorEdits); };
    records.push_back({.offset = uint64_t(n) * 1000,
                       .width = 7 + 2 * n,
                       .height = 12 - n,
                       .left = n - 1,
                       .top = 2 - n,
                       .flip_horizontal = n % 2 == 0,
                       .flip_vertical = n > 1,
                       .edits = {edit(0), edit(1), edit(2), edit(3)},
                       .amounts = {0.8f, 0.3f, 1.4f, 1.1f}});
  }
  records[0].edits[1] = ColorEdit::none;
  return records;
}

// Per batch its loss, logits and gradients.
std::vector<StepOutcome> run_inputs(Backend& backend, SessionOptions options, Task task) {
  constexpr size_t kPackBytes = 4000;
  options.programs = {{kInputs, Mode::gradients}};
  options.normalisation = {{0.5f, 0.45f, 0.4f}, {0.25f, 0.25f, 0.25f}};
  options.loss_scale = 256;
  options.fixed_loss_scale = true;
  options.workspace = size_t{32} << 20;
  options.loss.smoothing = 0.1;
  for (int c = 0; c < kStepClasses; ++c) options.loss.class_weights.push_back(0.5 + c % 3);
  options.loss.task = task;
  options.mixing = true;
  options.pack_bytes = kPackBytes;
  const Graph graph = input_graph();
  Session session(graph, backend, options);
  session.load(random_state(graph, 1));
  session.write_pack(0, random_bytes(kPackBytes, 4));
  const auto images = random_bytes(size_t{kInputs} * kInputSide * kInputSide * 3, 2);
  const auto labels = random_labels(kInputs, kStepClasses, 9);
  const auto presence = random_presence(kInputs, kStepClasses, 9);
  const Targets targets = task == Task::labels ? Targets(presence.data()) : Targets(labels.data());
  const std::vector<ImageRecord> records = input_records();
  const std::vector<Mix> mixes = {
      {.partner = 1, .share = 0.25f},
      {.partner = 3, .share = 0.75f, .left = 2, .top = 1, .right = 6, .bottom = 5},
      {.partner = 2},
      {.partner = 0, .share = 0.5f}};
  std::vector<StepOutcome> outcomes;
  for (const bool packed : {false, true, false, true})
    for (const bool mixed : {true, false}) {
      const HostBatch batch{.images = packed ? nullptr : images.data(),
                            .labels = targets,
                            .count = kInputs,
                            .records = packed ? records.data() : nullptr,
                            .mixes = mixed ? mixes.data() : nullptr};
      const double divisor = target_weight(options.loss, targets, kInputs, kStepClasses,
                                           mixed ? mixes : std::vector<Mix>());
      StepOutcome outcome;
      outcome.loss = session.result(session.gradients(batch, {.divisor = divisor})).loss;
      outcome.values["logits"] = session.logits(kInputs);
      const double scale = session.scale().scale;
      for (const auto& [name, tensor] : session.gradients()) {
        std::vector<double> values = wide(tensor);
        for (double& v : values) v /= scale;
        outcome.values["gradient " + name] = std::move(values);
      }
      outcomes.push_back(std::move(outcome));
    }
  return outcomes;
}

}  // namespace

void check_inputs(Backend& backend, const SessionOptions& options, const Limits& limits) {
  for (const Task task : {Task::classes, Task::labels}) {
    INFO((task == Task::labels ? "labels" : "classes"));
    const auto reference = make_reference_backend({.precision = Precision::fp64});
    const auto expected = run_inputs(*reference, {.precision = Precision::fp64}, task);
    const auto ours = run_inputs(backend, options, task);
    REQUIRE(ours.size() == expected.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      const Worst w = compare(ours[i], expected[i], limits.floor);
      CHECK_MESSAGE(w.error <= limits.error,
                    "batch " << i << ": " << w.name << " off by " << w.error);
      // What a batch is made of matters, and the one before does not.
      CHECK(std::abs(expected[i].loss - expected[i ^ 1].loss) > 1e-3);
      CHECK(expected[i].loss == expected[i ^ 4].loss);
    }
  }
}

}  // namespace engine::test

#include "tests/engine/sync_cases.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/models.h"
#include "tests/engine/random_graph.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

namespace engine::test {

namespace {

using Kind = OptimizerConfig::Kind;

int images_of(const BatchSplit& batch) {
  return std::accumulate(batch.begin(), batch.end(), 0);
}

std::vector<UpdateSplit> joined(std::vector<UpdateSplit> updates) {
  for (UpdateSplit& update : updates)
    for (BatchSplit& batch : update) batch = {images_of(batch)};
  return updates;
}

void append(std::vector<double>& to, const Tensor& tensor) {
  const Tensor wide = convert(tensor, DType::f64);
  const auto values = wide.as<double>();
  to.insert(to.end(), values.begin(), values.end());
}

// ---------------------------------------------------------------- a training

SessionOptions options_of(const SplitTraining& training, int rank) {
  SessionOptions options = training.options;
  for (const UpdateSplit& update : training.updates) {
    options.accumulates = options.accumulates || update.size() > 1;
    for (const BatchSplit& batch : update) {
      const Mode mode = &batch == &update.back() ? Mode::train : Mode::accumulate;
      options.programs.push_back({batch[rank], mode});
    }
  }
  return options;
}

Trained outcome(const Session& session, std::vector<double> losses) {
  Trained trained{{"losses", std::move(losses)}};
  const auto state = session.state();
  for (const Parameter& p : session.graph().parameters)
    append(trained[p.trained() ? "parameters" : "running"], state.at(p.name));
  for (const auto& [name, tensor] : session.optimizer_state())
    if (name.starts_with("moment")) append(trained["moments"], tensor);
  if (session.options().ema_decay > 0)
    for (const Parameter& p : session.graph().parameters)
      append(trained["averages"], session.ema_state().at(p.name));
  return trained;
}

Trained train_rank(const SplitTraining& training, Backend& backend,
                   const Communicator& communicator) {
  const Buffer& image = training.graph.buffers[training.graph.image.buffer];
  const int64_t pixels = int64_t{image.height} * image.width * image.channels;
  Session session(training.graph, backend, options_of(training, communicator.rank));
  session.load(random_state(training.graph, 1));
  std::vector<double> losses;
  uint32_t position = 0;
  for (const UpdateSplit& update : training.updates) {
    int divisor = 0;
    for (const BatchSplit& batch : update) divisor += images_of(batch);
    losses.push_back(0);
    for (const BatchSplit& batch : update) {
      const int total = images_of(batch), count = batch[communicator.rank],
                first = std::accumulate(batch.begin(), batch.begin() + communicator.rank, 0);
      const auto images = random_bytes(total * pixels, 100 + position);
      const auto labels = random_labels(total, training.graph.classes(), 200 + position);
      const HostBatch own{images.data() + first * pixels, labels.data() + first, count};
      const StepInput input{.epoch = 2,
                            .position = position + first,
                            .learning_rate = training.rate,
                            .divisor = double(divisor),
                            .total = total};
      const uint64_t step =
          &batch == &update.back() ? session.train(own, input) : session.accumulate(own, input);
      losses.back() += session.result(step).loss;
      position += total;
    }
  }
  communicator.group->sum(communicator.rank, std::span(losses));
  return outcome(session, std::move(losses));
}

// ---------------------------------------------------------------- the cases

// EfficientNet in little: gates, sums, stochastic depth, one buffer with two readers.
Graph small_efficientnet() {
  Graph g("small efficientnet", 1e-5, 0.1);
  Value v = g.conv(g.input(8, 8, 3), "stem", {.out = 8, .kernel = 3, .stride = 2});
  v = g.conv(g.silu(g.batch_norm(v, "stem.norm")), "reduce", {.out = 6});
  v = g.batch_norm(v, "reduce.norm");
  for (const std::string block : {"a.", "b."}) {
    Value y = g.conv(v, block + "expand", {.out = 12});
    y = g.silu(g.batch_norm(y, block + "expand.norm"));
    y = g.conv(y, block + "depthwise", {.out = 12, .kernel = 3, .depthwise = true});
    y = g.silu(g.batch_norm(y, block + "depthwise.norm"));
    y = g.conv(g.scale(y, g.squeeze_excite(y, block + "se", 3)), block + "project", {.out = 6});
    y = g.stochastic_depth(g.batch_norm(y, block + "project.norm"), block + "depth", 0.2f);
    v = g.add(y, v, block + "add");
  }
  v = g.global_pool(v, "pool");
  g.cross_entropy(g.linear(g.dropout(v, "drop", 0.2f), "head", 5));
  return g;
}

// DenseNet in little: shared buffers whose slices have many norms each.
Graph small_densenet() {
  Graph g("small densenet", 1e-5, 0.1);
  Value v = g.conv(g.input(9, 9, 3), "stem", {.out = 8, .kernel = 3});
  v = g.relu(g.batch_norm(v, "norm0"));
  const auto block = [&](int dense, int layers, const std::string& name) {
    for (int l = 0; l < layers; ++l) {
      const std::string layer = name + std::to_string(l);
      Value y = g.relu(g.batch_norm(g.placed(dense), layer + ".norm1"));
      y = g.relu(g.batch_norm(g.conv(y, layer + ".conv1", {.out = 8}), layer + ".norm2"));
      g.conv(y, layer + ".conv2", {.out = 4, .kernel = 3, .into = dense});
    }
  };
  const int first = g.buffer("block1", 8 + 3 * 4), second = g.buffer("block2", 10 + 2 * 4);
  g.max_pool(v, "pool0", 3, 2, 1, first);
  block(first, 3, "block1.");
  v = g.relu(g.batch_norm(g.placed(first), "transition.norm"));
  g.conv(g.average_pool(v, "transition.pool", 2), "transition.conv", {.out = 10, .into = second});
  block(second, 2, "block2.");
  v = g.relu(g.batch_norm(g.placed(second), "norm5"));
  g.cross_entropy(g.linear(g.global_pool(v, "pool5"), "head", 5));
  return g;
}

// Full batches, and one in which the last ranks have less or nothing: with `accumulate` the two
// halves of every update are batches of their own.
std::vector<UpdateSplit> updates_of(int ranks, bool accumulate) {
  const BatchSplit full(ranks, 3);
  BatchSplit ragged(ranks, 0), one(ranks, 0);
  for (int rank = 0; rank + 1 < ranks; ++rank) ragged[rank] = 3 - rank % 2;
  one[0] = 2;
  if (accumulate) return {{full, full}, {full, ragged}, {one, full}};
  return {{full}, {ragged}, {full}, {one}};
}

SplitTraining training_of(Graph graph, int ranks, Precision precision) {
  return {.graph = std::move(graph),
          .updates = updates_of(ranks, false),
          .options = {.precision = precision,
                      .deterministic = true,
                      .optimizer = {.kind = Kind::sgd, .momentum = 0.9},
                      .normalisation = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}},
                      .loss_scale = 1024,
                      .seed = 5}};
}

// ‖a − b‖ / ‖b‖ of the kind in which they differ most.
double distance(const Trained& ours, const Trained& expected) {
  double worst = 0;
  for (const auto& [kind, values] : expected) {
    const std::vector<double>& others = ours.at(kind);
    REQUIRE(others.size() == values.size());
    double difference = 0, norm = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      difference += (others[i] - values[i]) * (others[i] - values[i]);
      norm += values[i] * values[i];
    }
    worst = worse(worst, std::sqrt(difference / norm));
  }
  return worst;
}

struct Case {
  std::string name;
  SplitTraining training;
};

std::vector<Case> cases_of(int ranks, Precision precision) {
  std::vector<Case> cases;
  const auto add = [&](const std::string& name, Graph graph) -> SplitTraining& {
    cases.push_back({name, training_of(std::move(graph), ranks, precision)});
    return cases.back().training;
  };
  for (const bool dense : {false, true}) {
    const auto graph = [&] { return dense ? small_densenet() : small_efficientnet(); };
    const std::string name = graph().model;
    add(name + ", SGD", graph());
    add(name + ", Adam", graph()).options.optimizer = {.kind = Kind::adam, .eps = 1e-3};
    SplitTraining& all = add(name + ", accumulation and averages", graph());
    all.updates = updates_of(ranks, true);
    all.options.ema_decay = 0.5;
    SplitTraining& frozen = add(name + ", frozen norms", graph());
    frozen.updates = updates_of(ranks, true);
    frozen.options.frozen_norms = true;
    frozen.options.optimizer = {.kind = Kind::adamw, .eps = 1e-3, .weight_decay = 0.1};
    frozen.options.ema_decay = 0.5;
  }
  // In float a sum behind ReLU may turn its sign.
  const bool residuals = precision == Precision::fp64;
  for (uint64_t seed = 0; seed < 12; ++seed)
    add("random graph " + std::to_string(seed), random_graph(seed, residuals)).rate = 1e-3;
  return cases;
}

}  // namespace

Trained train_split(const SplitTraining& training, const MakeBackend& make_backend) {
  const int ranks = static_cast<int>(training.updates.front().front().size());
  std::vector<Trained> trained(ranks);
  run_ranks(ranks, [&](const Communicator& communicator) {
    const auto backend = make_backend(communicator);
    trained[communicator.rank] = train_rank(training, *backend, communicator);
  });
  const bool shared = training.options.sync_norms;
  for (const Trained& other : trained)
    for (const auto& [kind, values] : other)
      if (shared || kind == "parameters")
        CHECK_MESSAGE(values == trained[0].at(kind), "ranks hold different " << kind);
  return trained[0];
}

Trained train_whole(const SplitTraining& training, const MakeBackend& make_backend) {
  SplitTraining whole = training;
  whole.updates = joined(training.updates);
  return train_split(whole, make_backend);
}

void check_synced_ranks(int ranks, Precision precision, double limit,
                        const MakeBackend& make_backend) {
  double worst = 0, least_apart = 1;
  for (auto& [name, training] : cases_of(ranks, precision)) {
    const Trained apart = train_split(training, make_backend);
    training.options.sync_norms = true;
    const Trained whole = train_whole(training, make_backend);
    const double error = distance(train_split(training, make_backend), whole);
    CHECK_MESSAGE(error <= limit, name << ": off by " << error);
    worst = std::max(worst, error);
    if (training.graph.norms.empty() || training.options.frozen_norms) continue;
    const double without = distance(apart, whole);
    CHECK_MESSAGE(without > 10 * limit, name << ": off by " << without << " without sharing");
    least_apart = std::min(least_apart, without);
  }
  MESSAGE(ranks << " ranks, " << name_of(precision) << ": off by at most " << worst
                << ", without sharing by at least " << least_apart);
}

void check_synced_ranks_in_16_bits(int ranks, Precision precision, double factor,
                                   const MakeBackend& make_backend,
                                   const MakeBackend& make_exact_backend) {
  double shared = 0, rounding = 0;
  for (auto& [name, training] : cases_of(ranks, precision)) {
    training.options.sync_norms = true;
    SplitTraining exact = training;
    exact.options.precision = Precision::fp32;
    const Trained expected = train_whole(exact, make_exact_backend);
    shared += distance(train_split(training, make_backend), expected);
    rounding += distance(train_whole(training, make_backend), expected);
  }
  MESSAGE(ranks << " ranks, " << name_of(precision) << ": off by " << shared
                << " in all, one rank by " << rounding);
  CHECK(shared <= factor * rounding);
}

void check_lean_memory(int ranks, Precision precision, const MakeBackend& make_backend) {
  int recomputed = 0;
  for (auto& [name, training] : cases_of(ranks, precision))
    for (const bool shared : {false, true}) {
      training.options.sync_norms = shared;
      training.options.memory = MemoryUse::fast;
      const Trained fast = train_split(training, make_backend);
      training.options.memory = MemoryUse::lean;
      CHECK_MESSAGE(train_split(training, make_backend) == fast, name << " in lean memory");
      const Plan plan = make_plan(training.graph,
                                  {.batch = 3, .memory = MemoryUse::lean, .precision = precision});
      recomputed += static_cast<int>(plan.recomputed.size());
    }
  CHECK(recomputed > 0);
}

}  // namespace engine::test

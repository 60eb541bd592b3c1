#include "tests/engine/optimizer_cases.h"

#include <cmath>
#include <limits>

#include "models/models.h"
#include "tests/engine/step_cases.h"
#include "tests/json.h"
#include "tests/support.h"

namespace engine::test {

namespace {

using nlohmann::json;
using Kind = OptimizerConfig::Kind;
using Values = std::vector<double>;

// ---------------------------------------------------------------- traces

OptimizerConfig config_of(const json& recipe) {
  static const std::map<std::string, Kind> kinds = {
      {"adam", Kind::adam}, {"adamw", Kind::adamw}, {"sgd", Kind::sgd}, {"rmsprop", Kind::rmsprop}};
  OptimizerConfig c{.kind = kinds.at(recipe["optimizer"])};
  c.beta1 = recipe.value("beta1", c.beta1);
  c.beta2 = recipe.value("beta2", c.beta2);
  c.eps = recipe.value("eps", c.eps);
  c.momentum = recipe.value("momentum", c.momentum);
  c.alpha = recipe.value("alpha", c.alpha);
  c.nesterov = recipe.value("nesterov", false);
  c.weight_decay = recipe["weight_decay"];
  c.clip_norm = recipe.value("clip_norm", 0.);
  return c;
}

// There are no steps: the traces have gradients of their own.
Graph image_alone() {
  Graph graph("none", 0, 0);
  graph.logits = static_cast<const Operand&>(graph.input(1, 1, 1)).at;
  return graph;
}

// Tensors of one trace without a model, each in a block of its own of the backend's arenas.
class Rig {
 public:
  Rig(Backend& backend, Precision precision, const json& record, const json& recipe)
      : backend_(backend),
        real_(precision == Precision::fp64 ? DType::f64 : DType::f32),
        recipe_(recipe),
        config_(config_of(recipe)),
        decay_(recipe.value("ema_decay", 0.)) {
    const json& tensors = record["tensors"];
    plan_.options.precision = precision;
    plan_.options.backend = backend.info().kind;
    plan_.layout.trained = static_cast<int64_t>(tensors.size()) * kUpdateBlock;
    plan_.layout.state = kUpdateBlock;
    make_arenas();
    std::vector<ParameterGroup> groups;
    std::vector<uint8_t> group_of;
    for (const json& tensor : tensors) {
      const std::string& name = names_.emplace_back(tensor["name"]);
      const json& undecayed = recipe.value("undecayed", json::array());
      const bool decayed = std::find(undecayed.begin(), undecayed.end(), name) == undecayed.end();
      const json& rates = recipe.value("rates", json::object());
      groups.push_back({rates.value(name, 1.), decayed ? config_.weight_decay : 0});
      group_of.push_back(static_cast<uint8_t>(group_of.size()));
      write(arenas_.parameters, group_of.back(), tensor["start"]);
      if (decay_ > 0) write(arenas_.ema_parameters, group_of.back(), tensor["start"]);
    }
    if (decay_ > 0) write(arenas_.ema_state, 0, record["running"]["start"]);
    backend_.upload(arenas_.groups, groups.data(), groups.size() * sizeof(ParameterGroup));
    backend_.upload(arenas_.group_of, group_of.data(), group_of.size());
    const ScaleState scale{.scale = 64, .dynamic = 1};
    backend_.upload(arenas_.scale, &scale, sizeof scale);
    backend_.synchronize();
  }

  // Takes one step of the trace and returns the largest difference after it.
  double step(const json& record, size_t t) {
    const json skipped = recipe_.value("skipped", json::array());
    const bool skip = std::find(skipped.begin(), skipped.end(), t) != skipped.end();
    ScaleState scale;
    backend_.download(&scale, arenas_.scale, sizeof scale);
    for (size_t i = 0; i < names_.size(); ++i) {
      Values gradient = record["tensors"][i]["gradients"][t];
      for (double& g : gradient) g *= scale.scale;
      if (skip && i == 0) gradient.front() = std::numeric_limits<double>::infinity();
      write(arenas_.gradients, i, gradient);
    }
    write(arenas_.state, 0, record["running"]["values"][t]);
    backend_.set_params(program_, {.result = static_cast<uint32_t>(t % kResults),
                                   .step = t + 1,
                                   .learning_rate = recipe_["lr"]});
    enqueue(prepared_.update);
    backend_.synchronize();
    const StepResult& result = arenas_.results[t % kResults];
    CHECK(result.step == t + 1);
    CHECK(result.overflow == skip);
    double worst = 0;
    if (!skip) {
      const double norm = recipe_["norms"][t];
      worst = std::abs(result.gradient_norm - norm) / norm;
    }
    for (size_t i = 0; i < names_.size(); ++i) {
      worst = worse(worst, compare(arenas_.parameters, i, recipe_["values"][names_[i]], t));
      if (decay_ > 0)
        worst = worse(worst, compare(arenas_.ema_parameters, i, recipe_["averages"][names_[i]], t));
    }
    if (decay_ > 0)
      worst = worse(worst, compare(arenas_.ema_state, 0, recipe_["averages"]["running"], t));
    return worst;
  }

 private:
  void make_arenas() {
    const size_t trained = plan_.layout.trained * size_of(real_),
                 state = plan_.layout.state * size_of(real_);
    Plan::Totals totals{};
    totals.parameters = totals.gradients = trained;
    totals.optimizer = config_.moments() * trained;
    totals.averages = decay_ > 0 ? trained + state : 0;
    totals.groups = 1;
    if (!weights_are_masters(plan_.options.precision)) totals.weight_copies = trained;
    totals.state = state;
    memory_ = ArenaMemory(backend_, graph_, plan_.layout, totals, {});
    arenas_ = program_.arenas = memory_.arenas();
    prepared_ = backend_.prepare(program_, {.optimizer = config_, .ema_decay = decay_});
  }

  void write(Untyped arena, size_t block, const Values& values) {
    Tensor wide(DType::f64, {static_cast<int64_t>(values.size())});
    std::copy(values.begin(), values.end(), wide.as<double>().begin());
    const Tensor tensor = convert(wide, real_);
    backend_.upload(arena.at + block * kUpdateBlock * size_of(real_), tensor.bytes.data(),
                    tensor.bytes.size());
    backend_.synchronize();
  }

  // The difference after step t, relative to the value, since the updates round where PyTorch's do.
  // A clip factor of ours comes from a norm in double, so behind one the measure is the largest
  // value so far where that exceeds one: an element that was at 1e6 and comes back keeps the
  // rounding it had there. Also CHECKs that what pads the tensor is still zero.
  double compare(Untyped arena, size_t block, const json& theirs, size_t t) {
    Tensor tensor(real_, {kUpdateBlock});
    backend_.download(tensor.bytes.data(), arena.at + block * kUpdateBlock * size_of(real_),
                      tensor.bytes.size());
    const Tensor wide = convert(tensor, DType::f64);
    const auto ours = wide.as<double>();
    const size_t count = theirs[t].size();
    double worst = 0;
    for (size_t i = 0; i < count; ++i) {
      const double expected = theirs[t][i], off = std::abs(ours[i] - expected);
      double measure = std::abs(expected);
      for (size_t s = 0; config_.clip_norm > 0 && s <= t; ++s)
        measure = std::max({measure, 1., std::abs(theirs[s][i].get<double>())});
      if (off != 0) worst = worse(worst, off / measure);
    }
    CHECK(std::all_of(ours.begin() + static_cast<int64_t>(count), ours.end(),
                      [](double x) { return x == 0; }));
    return worst;
  }

  Backend& backend_;
  DType real_;
  json recipe_;
  OptimizerConfig config_;
  double decay_;
  std::vector<std::string> names_;
  Graph graph_ = image_alone();
  Plan plan_ = make_plan(graph_, {});
  ArenaMemory memory_;
  Arenas arenas_;
  Program program_{graph_, plan_, {}, {}, 1};
  Prepared prepared_;
};

// ---------------------------------------------------------------- sessions

struct Data {
  std::vector<uint8_t> images;
  std::vector<int32_t> labels;
  HostBatch batch(int first, int last, int64_t image_bytes) const {
    return {images.data() + first * image_bytes, labels.data() + first, last - first};
  }
};

Values flat(const std::map<std::string, Tensor>& tensors) {
  Values all;
  for (const auto& [name, tensor] : tensors) {
    const Tensor wide = convert(tensor, DType::f64);
    const auto values = wide.as<double>();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

double relative(const Values& a, const Values& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

bool equal(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.bytes == y.second.bytes;
  });
}

// A model without norms: its gradients are sums over the images.
constexpr int kPlainSize = 9, kPlainClasses = 6;
constexpr int64_t kPlainImage = kPlainSize * kPlainSize * 3;

Graph plain_graph() {
  Graph g("plain", 1e-5, 0.1);
  Value v =
      g.conv(g.input(kPlainSize, kPlainSize, 3), "conv", {.out = 8, .kernel = 3, .bias = true});
  v = g.relu(g.conv(g.max_pool(g.relu(v), "pool", 2, 2), "deep", {.out = 16, .bias = true}));
  g.cross_entropy(g.linear(v, "fc", kPlainClasses));
  return g;
}

SessionOptions plain_options(std::vector<ProgramSpec> programs, Precision precision) {
  return {.programs = std::move(programs),
          .precision = precision,
          .optimizer = {.kind = Kind::sgd, .momentum = 0.9, .clip_norm = 1},
          .accumulates = true,
          .normalisation = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}}};
}

}  // namespace

void check_optimizer_traces(Backend& backend, Precision precision) {
  const json record = golden("optimizers.json");
  const bool wide = precision == Precision::fp64;
  int traces = 0;
  double worst_of_all = 0;
  for (const json& recipe : record["traces"]) {
    if ((recipe["precision"] == "f64") != wide) continue;
    Rig rig(backend, precision, record, recipe);
    double worst = 0;
    for (size_t t = 0; t < record["steps"]; ++t) worst = worse(worst, rig.step(record, t));
    json what = recipe;
    for (const char* long_part : {"values", "averages", "norms"}) what.erase(long_part);
    CHECK_MESSAGE(worst <= (wide ? 1e-12 : 1e-6), print_json(what) << ": off by " << worst);
    worst_of_all = worse(worst_of_all, worst);
    ++traces;
  }
  CHECK(traces == 28);
  MESSAGE(name_of(precision) << ": " << traces << " traces, off by at most " << worst_of_all);
}

void check_accumulation(Backend& backend, Precision precision, double tolerance) {
  constexpr int kBatch = 8;
  const Graph g = plain_graph();
  const SessionOptions options =
      plain_options({{kBatch, Mode::train}, {3, Mode::train}, {3, Mode::accumulate}}, precision);
  Session whole(g, backend, options), shares(g, backend, options);
  whole.initialise(1);
  shares.initialise(1);
  const Values start = flat(whole.state());
  for (uint32_t step = 0; step < 4; ++step) {
    const Data data{random_bytes(kBatch * kPlainImage, step),
                    random_labels(kBatch, kPlainClasses, step)};
    const double rate = 0.1;
    const uint64_t all = whole.train(data.batch(0, kBatch, kPlainImage), {.learning_rate = rate});
    const StepInput input{.learning_rate = rate, .divisor = kBatch};
    const uint64_t parts[] = {shares.accumulate(data.batch(0, 3, kPlainImage), input),
                              shares.accumulate(data.batch(3, 6, kPlainImage), input),
                              shares.train(data.batch(6, kBatch, kPlainImage), input)};
    double loss = 0;
    for (const uint64_t part : parts) loss += shares.result(part).loss;
    CHECK(loss == doctest::Approx(whole.result(all).loss).epsilon(1e-5));
    CHECK(shares.result(parts[2]).gradient_norm ==
          doctest::Approx(whole.result(all).gradient_norm).epsilon(1e-5));
    CHECK(shares.result(parts[0]).gradient_norm == 0);
  }
  const Values ours = flat(shares.state()), expected = flat(whole.state());
  CHECK(relative(ours, expected) <= tolerance);
  CHECK(relative(start, expected) > 100 * tolerance);
}

void check_accumulation_in_parallel(int ranks, const MakeBackend& make_backend) {
  const Graph g = plain_graph();
  const int batch = 4 * ranks;
  const auto train = [&](int world, bool shares) {
    std::vector<Values> states(world);
    run_ranks(world, [&](const Communicator& communicator) {
      const auto backend = make_backend(communicator);
      const int own = batch / world, first = own * communicator.rank, share = own / 2;
      const ProgramSpec whole{own, Mode::train}, last{share, Mode::train},
          before{share, Mode::accumulate};
      Session session(
          g, *backend,
          plain_options(shares ? std::vector{last, before} : std::vector{whole}, Precision::fp32));
      session.initialise(1);
      for (uint32_t step = 0; step < 4; ++step) {
        const Data data{random_bytes(batch * kPlainImage, step),
                        random_labels(batch, kPlainClasses, step)};
        const StepInput input{.learning_rate = 0.1, .divisor = double(batch)};
        if (shares) session.accumulate(data.batch(first, first + share, kPlainImage), input);
        session.train(data.batch(shares ? first + share : first, first + own, kPlainImage), input);
      }
      states[communicator.rank] = flat(session.state());
    });
    for (const Values& state : states) CHECK(state == states.front());
    return states.front();
  };
  CHECK(relative(train(ranks, true), train(1, false)) <= 1e-5);
}

void check_frozen(Backend& backend, Precision precision) {
  const Graph g = plain_graph();
  SessionOptions options = plain_options({{4, Mode::train}}, precision);
  options.optimizer.clip_norm = 0;
  options.loss_scale = 256;  // no step overflows, and none is skipped
  options.fixed_loss_scale = true;
  options.deterministic = true;
  Session all(g, backend, options);
  options.rule = [](const Parameter& p) { return ParameterRule{p.head ? 1. : 0.}; };
  Session head(g, backend, options);
  const Data data{random_bytes(4 * kPlainImage, 1), random_labels(4, kPlainClasses, 1)};
  for (Session* session : {&all, &head}) {
    session->initialise(1);
    session->train(data.batch(0, 4, kPlainImage), {.learning_rate = 0.1});
  }
  const auto moved = head.state(), expected = all.state();
  const auto gradients = head.gradients();
  for (const Parameter& p : g.parameters) {
    CHECK_MESSAGE((moved.at(p.name).bytes == expected.at(p.name).bytes) == p.head, p.name);
    const auto& bytes = gradients.at(p.name).bytes;
    CHECK_MESSAGE(std::all_of(bytes.begin(), bytes.end(),
                              [](std::byte b) { return b == std::byte{0}; }) == !p.head,
                  p.name);
  }
  // With the first session's rule the second goes on as the first does from the same state.
  head.set_rule({});
  all.load(moved);
  all.load_optimizer_state(head.optimizer_state());
  for (Session* session : {&all, &head})
    session->train(data.batch(0, 4, kPlainImage), {.learning_rate = 0.1});
  CHECK(flat(all.state()) == flat(head.state()));
  CHECK(flat(head.state()) != flat(moved));
}

void check_recipe(Backend& backend, Precision precision) {
  const Graph g = make_model("efficientnet_b0", {.classes = 5, .height = 64, .width = 64});
  // Four pixels of eight images in the last layers: with fewer, normalised values cancel exactly.
  constexpr int64_t kImage = 64 * 64 * 3;
  const auto frozen = [](const std::string& name) { return name.starts_with("features.0."); };
  const auto run = [&](Session& session, uint32_t first, uint32_t last) {
    for (uint32_t step = first; step < last; ++step) {
      const Data data{random_bytes(8 * kImage, step), random_labels(8, 5, step)};
      const StepInput input{.position = 8 * step, .learning_rate = 1e-2, .divisor = 8};
      session.accumulate(data.batch(0, 4, kImage), input);
      session.train(data.batch(4, 8, kImage), input);
    }
  };
  const SessionOptions options{
      .programs = {{4, Mode::train}, {4, Mode::accumulate}, {2, Mode::evaluate}},
      .precision = precision,
      .deterministic = true,
      .optimizer = {.kind = Kind::adamw, .weight_decay = 0.1, .clip_norm = 1},
      .rule =
          [&](const Parameter& p) {
            return ParameterRule{frozen(p.name) ? 0. : 1., decays_weight(p)};
          },
      .ema_decay = 0.5,
      .accumulates = true,
      .normalisation = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}},
      .loss_scale = 1024};
  Session whole(g, backend, options), resumed(g, backend, options);
  whole.initialise(1);
  const auto start = whole.state();
  CHECK(equal(whole.ema_state(), start));
  run(whole, 0, 2);
  REQUIRE(whole.scale().optimizer_steps == 2);  // none was skipped
  const auto state = whole.state(), averages = whole.ema_state(), moments = whole.optimizer_state();
  for (const Parameter& p : g.parameters) {
    const bool still = state.at(p.name).bytes == start.at(p.name).bytes;
    CHECK_MESSAGE(still == (p.trained() && frozen(p.name)), p.name);
    CHECK_MESSAGE((averages.at(p.name).bytes == state.at(p.name).bytes) == still, p.name);
  }

  whole.exchange_ema();
  CHECK(equal(whole.state(), averages));
  CHECK(equal(whole.ema_state(), state));
  Session plain(g, backend,
                {.programs = {{2, Mode::evaluate}},
                 .precision = precision,
                 .deterministic = true,
                 .normalisation = options.normalisation});
  plain.load(averages);
  const Data data{random_bytes(2 * kImage, 9), random_labels(2, 5, 9)};
  CHECK(whole.evaluate(data.batch(0, 2, kImage), {}) ==
        plain.evaluate(data.batch(0, 2, kImage), {}));
  whole.exchange_ema();
  CHECK(equal(whole.state(), state));
  CHECK(equal(whole.ema_state(), averages));

  resumed.load(state);
  resumed.load_ema_state(averages);
  resumed.load_optimizer_state(moments);
  run(whole, 2, 4);
  run(resumed, 2, 4);
  CHECK(equal(resumed.state(), whole.state()));
  CHECK(equal(resumed.ema_state(), whole.ema_state()));
  CHECK(equal(resumed.optimizer_state(), whole.optimizer_state()));
}

}  // namespace engine::test

// The loss of several labels against values of torch.nn.BCEWithLogitsLoss, recorded by
// tools/compare/label_losses.py, and its gradient against differences; what a session makes of it.
#include <cmath>

#include "engine/loss.h"
#include "engine/session.h"
#include "kernels/reference.h"
#include "tests/engine/recorded_loss.h"
#include "tests/engine/step_cases.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

struct LabelCase {
  LabelCase(const json& record, const json& recorded)
      : rows(int(record["labels"].size())), labels(int(record["weights"].size())) {
    config.task = Task::labels;
    config.smoothing = recorded["smoothing"];
    const bool missing = recorded["missing"];
    for (const auto& row : record["logits"])
      for (const double z : row) logits.push_back(z);
    for (const auto& row : record["labels"])
      for (const auto& label : row)
        presence.push_back(label.is_null() ? (missing ? Presence::missing : Presence::absent)
                           : label == 1    ? Presence::present
                                           : Presence::absent);
    if (recorded["weighted"]) config.class_weights = record["weights"].get<std::vector<double>>();
    if (recorded["mixed"])
      for (int n = 0; n < rows; ++n)
        mixes.push_back({.partner = record["mix"]["partners"][n],
                         .share = record["mix"]["shares"][n].get<float>()});
    params.divisor = target_weight(config, presence.data(), rows, labels, mixes);
    params.mixed = !mixes.empty();
  }

  double loss(const std::vector<double>& z, double* gradient = nullptr) const {
    const OperandView<double> view{z.data(), rows, 1, 1, labels, labels};
    const TargetView targets{
        .presence = presence.data(),
        .mixes = mixes.empty() ? nullptr : mixes.data(),
        .class_weights = config.class_weights.empty() ? nullptr : config.class_weights.data(),
        .smoothing = config.smoothing,
        .capacity = rows,
        .classes = labels,
        .params = &params};
    StepResult result;
    reference::binary_cross_entropy(gradient, result, view, targets, ScaleState{});
    return result.loss;
  }

  int rows, labels;
  std::vector<Presence> presence;
  std::vector<double> logits;
  LossConfig config;
  std::vector<Mix> mixes;
  StepParams params;
};

constexpr int kLabelSide = 4, kLabelCount = 3, kLabelImages = 4;

Graph label_graph() {
  Graph g("linear", 1e-5, 0.1);
  g.cross_entropy(g.linear(g.input(kLabelSide, kLabelSide, 3), "fc", kLabelCount));
  return g;
}

constexpr Presence N = Presence::absent, Y = Presence::present, Q = Presence::missing;
const std::vector<uint8_t> kLabelPixels =
    random_bytes(kLabelImages * kLabelSide * kLabelSide * 3, 2);
const std::vector<Presence> kShown = {Y, N, Q, N, N, Y, Q, Q, Q, Y, Y, N};

struct LabelRun {
  explicit LabelRun(LossConfig loss, int batch = kLabelImages)
      : backend(make_reference_backend({.precision = Precision::fp64})),
        session(label_graph(), *backend,
                {.programs = {{batch, Mode::train},
                              {batch, Mode::accumulate},
                              {batch, Mode::gradients},
                              {batch, Mode::evaluate}},
                 .precision = Precision::fp64,
                 .optimizer = {.kind = OptimizerConfig::Kind::sgd},
                 .accumulates = true,
                 .loss = std::move(loss)}) {
    session.load(random_state(session.graph(), 1));
  }
  std::unique_ptr<Backend> backend;
  Session session;
};

HostBatch part(int first, int count, const std::vector<Presence>& shown = kShown) {
  return {kLabelPixels.data() + first * kLabelSide * kLabelSide * 3,
          shown.data() + first * kLabelCount, count};
}

}  // namespace

TEST_CASE("loss and gradient of several labels are those of torch.nn.BCEWithLogitsLoss") {
  const json record = golden("label_losses.json");
  int cases = 0;
  for (const json& recorded : record["cases"]) {
    const LabelCase c(record, recorded);
    INFO("case " << cases << ", smoothing " << c.config.smoothing);
    CHECK(c.params.divisor == recorded["divisor"].get<double>());
    expect_recorded(c, recorded, {1e-15, 1e-12});
    ++cases;
  }
  CHECK(cases == 16);
}

TEST_CASE("the gradient of the loss of several labels is its slope") {
  const json record = golden("label_losses.json");
  for (const json& recorded : record["cases"]) {
    expect_slope(LabelCase(record, recorded), {1e-7, 1e-7});
  }
}

TEST_CASE("what is missing has no gradient, and a batch of nothing else leaves all as it is") {
  LabelRun run({.task = Task::labels});
  const std::vector<Presence> nothing(kLabelImages * kLabelCount, Q);
  CHECK(target_weight(run.session.options().loss, nothing.data(), kLabelImages, kLabelCount) == 0);
  CHECK(run.session.result(run.session.gradients(part(0, kLabelImages, nothing), {})).loss == 0);
  for (const auto& [name, gradient] : run.session.gradients())
    for (const double g : gradient.as<double>()) CHECK(g == 0);
  // The third label is known of two images; where it is missing in all, its row of weights rests.
  std::vector<Presence> shown = kShown;
  for (int n = 0; n < kLabelImages; ++n) shown[n * kLabelCount + 2] = Q;
  run.session.result(run.session.gradients(part(0, kLabelImages, shown), {}));
  const Tensor weight = run.session.gradients().at("fc.weight");
  const size_t row = weight.as<double>().size() / kLabelCount;
  double first = 0;
  for (size_t i = 0; i < row; ++i) {
    first += std::abs(weight.as<double>()[i]);
    CHECK(weight.as<double>()[2 * row + i] == 0);
  }
  CHECK(first > 0);
}

// Their numbers of known labels differ, so a mean of means would be another.
TEST_CASE("batches that are accumulated make the mean over all known labels") {
  const LossConfig loss{.class_weights = {2, 0.5, 3}, .task = Task::labels};
  LabelRun whole(loss), halves(loss, 2);
  const double known = target_weight(loss, kShown.data(), kLabelImages, kLabelCount);
  CHECK(known == 8);
  const double expected =
      whole.session.result(whole.session.train(part(0, kLabelImages), {.divisor = known})).loss;
  const double first =
      halves.session.result(halves.session.accumulate(part(0, 2), {.divisor = known})).loss;
  const double second =
      halves.session.result(halves.session.train(part(2, 2), {.divisor = known})).loss;
  CHECK(first + second == doctest::Approx(expected).epsilon(1e-13));
  const auto ours = halves.session.gradients(), theirs = whole.session.gradients();
  for (const auto& [name, tensor] : theirs)
    expect_close(ours.at(name).as<double>(), tensor.as<double>(), {1e-15, 1e-12}, name);
}

TEST_CASE("a session takes targets of its own task, and evaluation is plain") {
  LabelRun weighted({.smoothing = 0.2, .class_weights = {3, 1, 2}, .task = Task::labels}),
      plain({.task = Task::labels});
  StepResult with, without;
  CHECK(weighted.session.evaluate(part(0, kLabelImages), {}, &with) ==
        plain.session.evaluate(part(0, kLabelImages), {}, &without));
  CHECK(with.loss == without.loss);
  CHECK(without.correct5 == 0);
  const std::vector<int32_t> classes = {0, 1, 2, 0};
  CHECK_THROWS_AS(plain.session.gradients({kLabelPixels.data(), classes.data(), kLabelImages}, {}),
                  Error);
  LabelRun of_classes({});
  CHECK_THROWS_AS(of_classes.session.gradients(part(0, kLabelImages), {}), Error);
}

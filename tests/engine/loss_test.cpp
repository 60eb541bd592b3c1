// The loss against values of torch.nn.CrossEntropyLoss, recorded by tools/compare/losses.py, and
// its gradient against differences; what a session makes of a LossConfig and of mixes.
#include "engine/loss.h"

#include <cmath>

#include "engine/error.h"
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

// A batch of logits and what they are compared with.
struct LossCase {
  LossCase(const json& record, const json& recorded)
      : rows(int(record["labels"].size())),
        classes(int(record["weights"].size())),
        labels(record["labels"].get<std::vector<int32_t>>()),
        smoothing(recorded["smoothing"]) {
    for (const auto& row : record["logits"])
      for (const double z : row) logits.push_back(z);
    if (recorded["weighted"]) config.class_weights = record["weights"].get<std::vector<double>>();
    config.smoothing = smoothing;
    if (recorded["mixed"])
      for (int n = 0; n < rows; ++n)
        mixes.push_back({.partner = record["mix"]["partners"][n],
                         .share = record["mix"]["shares"][n].get<float>()});
    params.divisor = target_weight(config, labels, mixes);
    params.mixed = !mixes.empty();
  }

  double loss(const std::vector<double>& z, double* gradient = nullptr) const {
    const OperandView<double> view{z.data(), rows, 1, 1, classes, classes};
    const TargetView targets{
        .labels = labels.data(),
        .mixes = mixes.empty() ? nullptr : mixes.data(),
        .class_weights = config.class_weights.empty() ? nullptr : config.class_weights.data(),
        .smoothing = smoothing,
        .capacity = rows,
        .classes = classes,
        .params = &params};
    StepResult result;
    reference::cross_entropy(gradient, result, view, targets, ScaleState{});
    return result.loss;
  }

  int rows, classes;
  std::vector<int32_t> labels;
  double smoothing;
  std::vector<double> logits;
  LossConfig config;
  std::vector<Mix> mixes;
  StepParams params;
};

constexpr int kSide = 6, kClasses = 5, kImages = 4;

Graph linear_graph() {
  Graph g("linear", 1e-5, 0.1);
  const Value v = g.conv(g.input(kSide, kSide, 3), "conv", {.out = 4, .kernel = 3});
  g.cross_entropy(g.linear(g.relu(g.batch_norm(v, "norm")), "fc", kClasses));
  return g;
}

struct Run {
  explicit Run(SessionOptions options)
      : backend(make_reference_backend({.precision = Precision::fp64})),
        session(linear_graph(), *backend, complete(std::move(options))) {
    session.load(random_state(session.graph(), 1));
  }
  static SessionOptions complete(SessionOptions options) {
    options.programs = {{kImages, Mode::gradients}, {kImages, Mode::evaluate}};
    options.precision = Precision::fp64;
    return options;
  }
  std::unique_ptr<Backend> backend;
  Session session;
};

const std::vector<uint8_t> kPixels = random_bytes(kImages * kSide * kSide * 3, 2);
const std::vector<int32_t> kLabels = {4, 0, 3, 1};

}  // namespace

TEST_CASE("loss and gradient are those of torch.nn.CrossEntropyLoss") {
  const json record = golden("losses.json");
  int cases = 0;
  for (const json& recorded : record["cases"]) {
    const LossCase c(record, recorded);
    INFO("smoothing " << c.smoothing << ", " << c.config.class_weights.size() << " weights, "
                      << c.mixes.size() << " mixes");
    CHECK(c.params.divisor == doctest::Approx(recorded["divisor"].get<double>()).epsilon(1e-14));
    expect_recorded(c, recorded, {1e-14, 1e-12});
    ++cases;
  }
  CHECK(cases == 12);
}

TEST_CASE("the gradient of the loss is its slope") {
  const json record = golden("losses.json");
  for (const json& recorded : record["cases"]) {
    expect_slope(LossCase(record, recorded), {1e-9, 1e-7});
  }
}

TEST_CASE("evaluation is plain whatever training minimises") {
  Run plain({}), weighted({.loss = {.smoothing = 0.2, .class_weights = {1, 2, 0.5, 4, 3}}});
  const HostBatch batch{kPixels.data(), kLabels.data(), kImages};
  StepResult with, without;
  CHECK(plain.session.evaluate(batch, {}, &without) == weighted.session.evaluate(batch, {}, &with));
  CHECK(with.loss == without.loss);
  const double trained = weighted.session.result(weighted.session.gradients(batch, {})).loss;
  CHECK(trained != plain.session.result(plain.session.gradients(batch, {})).loss);
}

// Mixup is linear in the pixels and in the labels, so that a mix with share 1 changes nothing, one
// with share 0 swaps, and a box over everything does too.
TEST_CASE("mixes change pixels and labels alike, from step to step in one program") {
  Run run({.mixing = true});
  const auto loss = [&](std::vector<Mix> mixes, const std::vector<int32_t>& labels) {
    const HostBatch batch{kPixels.data(), labels.data(), kImages, nullptr,
                          mixes.empty() ? nullptr : mixes.data()};
    return run.session.result(run.session.gradients(batch, {})).loss;
  };
  const double plain = loss({}, kLabels);
  CHECK(loss({{0, 1}, {1, 1}, {2, 1}, {3, 1}}, kLabels) == plain);
  const std::vector<Mix> swapped{{3, 0}, {2, 0}, {1, 0}, {0, 0}};
  CHECK(loss(swapped, kLabels) == doctest::Approx(plain).epsilon(1e-12));
  std::vector<Mix> boxes = swapped;
  for (Mix& mix : boxes) mix.right = mix.bottom = kSide;
  CHECK(loss(boxes, kLabels) == doctest::Approx(plain).epsilon(1e-12));
  // The images are the same, but not the labels.
  const double other = loss({}, {1, 3, 0, 4});
  CHECK(loss({{0, 0}, {1, 0}, {2, 0}, {3, 0}}, kLabels) == plain);
  CHECK(other != plain);
  CHECK(loss({{3, 0.5f}, {2, 0.5f}, {1, 0.5f}, {0, 0.5f}}, kLabels) != plain);
  CHECK(loss({}, kLabels) == plain);
}

TEST_CASE("what does not fit a session is refused") {
  CHECK_THROWS_AS(Run({.loss = {.smoothing = 1}}), Error);
  CHECK_THROWS_AS(Run({.loss = {.class_weights = {1, 2}}}), Error);
  for (const double weight : {0., -1., HUGE_VAL, std::nan("")}) {
    std::vector<double> weights(kClasses, 1);
    weights.back() = weight;
    CHECK_THROWS_AS(Run({.loss = {.class_weights = weights}}), Error);
  }
  Run run({}), mixing({.mixing = true, .pack_bytes = 100});
  const std::vector<Mix> wrong{{0, 1}, {1, 1}, {4, 1}, {0, 1}};
  const HostBatch batch{kPixels.data(), kLabels.data(), kImages, nullptr, wrong.data()};
  CHECK_THROWS_AS(run.session.gradients(batch, {}), Error);     // no mixing
  CHECK_THROWS_AS(mixing.session.gradients(batch, {}), Error);  // a partner that is not there
  std::vector<ImageRecord> records(kImages, {.offset = 10, .width = 6, .height = 6});
  CHECK_THROWS_AS(mixing.session.gradients(
                      {.labels = kLabels.data(), .count = kImages, .records = records.data()}, {}),
                  Error);
  CHECK_THROWS_AS(mixing.session.write_pack(50, std::vector<uint8_t>(51)), Error);
}

// ---------------------------------------------------------------- packs

TEST_CASE("records of a pack make the logits that their pixels make") {
  Run run({.pack_bytes = kPixels.size()});
  const size_t half = kPixels.size() / 2;
  run.session.write_pack(half, std::span(kPixels).subspan(half));
  run.session.write_pack(0, std::span(kPixels).first(half));
  std::vector<ImageRecord> records;
  for (int n = 0; n < kImages; ++n)
    records.push_back({.offset = uint64_t(n) * kSide * kSide * 3, .width = kSide, .height = kSide});
  const HostBatch pixels{kPixels.data(), kLabels.data(), kImages};
  const HostBatch packed{.labels = kLabels.data(), .count = kImages, .records = records.data()};
  const auto expected = run.session.evaluate(pixels, {});
  CHECK(run.session.evaluate(packed, {}) == expected);
  records[1].flip_horizontal = 1;
  CHECK(run.session.evaluate(packed, {}) != expected);
  CHECK(run.session.evaluate(pixels, {}) == expected);
  records[1].flip_horizontal = 0;
  const double loss = run.session.result(run.session.gradients(pixels, {})).loss;
  CHECK(run.session.result(run.session.gradients(packed, {})).loss == loss);
}

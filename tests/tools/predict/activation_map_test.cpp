// Class activation maps against PyTorch's: features before the global average, and their product
// with the weights of a class; enlarging them; colours.
#include "tools/predict/activation_map.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/features.h"
#include "engine/session.h"
#include "models/models.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tools/bench/parity.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr char kGolden[] = "activation_maps.json";

// (N, C, H, W) of the rule to what a session takes.
std::vector<double> input_of(int batch, int height, int width, uint64_t seed) {
  const Tensor nchw = rule_tensor("input", {batch, 3, height, width}, seed);
  const auto from = nchw.as<float>();
  const int64_t pixels = int64_t{height} * width;
  std::vector<double> nhwc(from.size());
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t p = 0; p < pixels; ++p)
        nhwc[size_t((n * pixels + p) * 3 + c)] = from[size_t((n * 3 + c) * pixels + p)];
  return nhwc;
}

// The worst difference of two lists, over the largest value of the second.
struct Worst {
  double difference = 0, largest = 0;
  void see(double ours, double theirs) {
    difference = worse(difference, std::abs(ours - theirs));
    largest = std::max(largest, std::abs(theirs));
  }
  double relative() const { return difference / largest; }
};

void check_maps(Backend& backend, Precision precision, double limit) {
  const nlohmann::json file = golden(kGolden);
  const int batch = file["batch"], classes = file["classes"], height = file["image"][0],
            width = file["image"][1];
  const uint64_t seed = file["seed"];
  CHECK(file["models"].size() == 6);
  for (const nlohmann::json& model : file["models"]) {
    const std::string name = model["model"];
    CAPTURE(name);
    Session session(make_model(name, {.classes = classes, .height = height, .width = width}),
                    backend,
                    {.programs = {{batch, Mode::evaluate}},
                     .precision = precision,
                     .deterministic = true,
                     .float_input = true,
                     .features = true});
    std::map<std::string, Tensor> state;
    for (const Parameter& p : session.graph().parameters)
      state[p.name] = rule_tensor(p.name, p.shape, seed);
    session.load(state);
    session.set_input(input_of(batch, height, width, seed));
    const std::vector<int32_t> labels(size_t(batch), 0);
    session.evaluate({nullptr, labels.data(), batch}, {});
    const std::vector<float> features = session.features(batch), maps = session.feature_maps(batch);

    const Head head = head_of(session.graph());
    REQUIRE(head.pool);
    const Buffer& b = session.graph().buffers[head.pool->in.at.buffer];
    const size_t channels = features.size() / size_t(batch), of_image = maps.size() / size_t(batch);
    const auto& theirs = model["maps"];
    REQUIRE(theirs[0][0].size() == size_t(b.height));
    REQUIRE(theirs[0][0][0].size() == size_t(b.width));
    REQUIRE(of_image == channels * b.height * b.width);
    const Tensor& weight = state.at(session.graph().parameters[head.linear->weight].name);
    Worst pooled, worst, logits;
    for (int n = 0; n < batch; ++n) {
      for (size_t k = 0; k < model["features"][n].size(); ++k)
        pooled.see(features[size_t(n) * channels + k], model["features"][n][k]);
      for (int c = 0; c < classes; ++c) {
        const ActivationMap map =
            activation_map(std::span(maps).subspan(size_t(n) * of_image, of_image), b.height,
                           b.width, weight.as<float>().subspan(size_t(c) * channels, channels));
        double mean = model["bias"][c];
        for (int y = 0; y < b.height; ++y)
          for (int x = 0; x < b.width; ++x) {
            const float value = map.values[size_t(y) * b.width + x];
            worst.see(value, theirs[n][c][y][x]);
            mean += value / double(map.values.size());
          }
        logits.see(mean, model["logits"][n][c]);  // so that the map is exact
      }
    }
    // Random weights may make a network worse conditioned than those of a training: in float, four
    // times what PyTorch loses is allowed.
    const double own = precision == Precision::fp64 ? 0. : model["own"].get<double>();
    const double most = std::max(limit, 4 * own);
    MESSAGE(name << ": maps " << worst.relative() << ", features " << pooled.relative()
                 << "; PyTorch's own in float " << model["own"].get<double>());
    CHECK(worst.relative() <= most);
    CHECK(pooled.relative() <= most);
    CHECK(logits.relative() <= most);
  }
}

}  // namespace

// Features are handed out in float.
TEST_CASE("class activation maps are PyTorch's: the reference in double") {
  check_maps(*make_reference_backend({.precision = Precision::fp64}), Precision::fp64, 1e-6);
}

TEST_CASE("class activation maps are PyTorch's: the CPU backend") {
  check_maps(*make_cpu_backend({}), Precision::fp32, 1e-4);
}

TEST_CASE("networks that end otherwise have features, and no maps") {
  const auto backend = make_reference_backend({});
  const auto session_of = [&](bool features) {
    return std::make_unique<Session>(
        make_model("mnist_cnn", {.height = 28, .width = 28}), *backend,
        SessionOptions{.programs = {{1, Mode::evaluate}}, .features = features});
  };
  const std::vector<uint8_t> image(28 * 28, 100);
  const int32_t label = 0;
  const auto session = session_of(true);
  session->initialise(1);
  session->evaluate({image.data(), &label, 1}, {});
  const std::vector<float> features = session->features(1);
  CHECK(features.size() == 128);
  CHECK(std::ranges::all_of(features, [](float f) { return f >= 0; }));  // behind a ReLU
  CHECK(std::ranges::any_of(features, [](float f) { return f > 0; }));
  CHECK(mentions(message_of([&] { session->feature_maps(1); }, Failure::usage), "mnist_cnn: "));
  CHECK_FALSE(head_of(session->graph()).pool);

  const auto without = session_of(false);
  without->initialise(1);
  without->evaluate({image.data(), &label, 1}, {});
  message_of([&] { without->features(1); }, Failure::internal);
}

TEST_CASE("maps are enlarged as by PyTorch's interpolate") {
  const nlohmann::json file = golden(kGolden);
  for (const nlohmann::json& model : file["models"]) {
    const auto& small = model["maps"][0][0];
    ActivationMap map{int(small.size()), int(small[0].size()), {}};
    for (const auto& row : small)
      for (const double value : row) map.values.push_back(float(value));
    const ActivationMap large = resize_bilinear(map, file["size"][0], file["size"][1]);
    Worst worst;
    for (int y = 0; y < large.height; ++y)
      for (int x = 0; x < large.width; ++x)
        worst.see(large.values[size_t(y) * large.width + x], model["enlarged"][y][x]);
    CHECK(worst.relative() <= 1e-6);
  }
  const ActivationMap one{1, 1, {3.5f}};
  for (const float value : resize_bilinear(one, 4, 5).values) CHECK(value == 3.5f);
}

TEST_CASE("colours grow lighter with the value, and the picture stays visible below them") {
  double before = -1;
  for (int i = 0; i <= 256; ++i) {
    const Rgb c = map_colour(float(i) / 256);
    const double light = 0.2126 * c.r + 0.7152 * c.g + 0.0722 * c.b;
    CHECK(light > before - 0.5);  // bytes are rounded
    before = std::max(before, light);
  }
  CHECK(map_colour(-1).r == map_colour(0).r);
  CHECK(map_colour(2).g == map_colour(1).g);
  Image picture(4, 2, 1);
  picture.pixels = {0, 0, 200, 200, 0, 0, 200, 200};
  const Image over = overlay(picture, {1, 2, {-3.f, 5.f}});
  CHECK(over.channels == 3);
  const Rgb low = map_colour(0), high = map_colour(1);
  CHECK(over.row(0)[0] == (low.r + 1) / 2);
  CHECK(over.row(1)[9] == doctest::Approx((200 + high.r) / 2.).epsilon(0.01));
  const Image flat = overlay(picture, {1, 2, {7.f, 7.f}});  // no scale: the lowest colour
  CHECK(flat.row(0)[0] == (low.r + 1) / 2);
  CHECK(flat.row(0)[11] == doctest::Approx((200 + low.b) / 2.).epsilon(0.01));
}

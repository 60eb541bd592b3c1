// Probabilities, views, lines of output, and the order of several ranks.
#include "tools/predict/prediction.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <thread>

#include "io/files/csv.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tools/predict/features_file.h"
#include "tools/predict/in_order.h"
#include "tools/predict/prediction_text.h"
#include "tools/predict/views.h"

using namespace engine;
using namespace engine::test;

namespace {

using Row = std::vector<float>;

Prediction predicted(const std::vector<Row>& views, int top, double temperature = 1) {
  const std::vector<std::span<const float>> spans(views.begin(), views.end());
  return predict_image(spans, top, temperature);
}

std::vector<double> softmax(const Row& logits, double temperature) {
  std::vector<double> p;
  for (const float z : logits) p.push_back(std::exp(z / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.);
  for (double& value : p) value /= sum;
  return p;
}

}  // namespace

TEST_CASE("probabilities are softmax, divided by a temperature and averaged over views") {
  const Row one = {1, -2, 0.5f}, two = {-1, 3, 0.25f};
  for (const double temperature : {1., 2.5}) {
    const Prediction p = predicted({one, two}, 2, temperature);
    for (size_t c = 0; c < 3; ++c)
      CHECK(p.probabilities[c] ==
            doctest::Approx((softmax(one, temperature)[c] + softmax(two, temperature)[c]) / 2)
                .epsilon(1e-6));
    CHECK(p.logits == one);  // of the image itself
  }
  CHECK(predicted({one}, 5).ranked == std::vector{0, 2, 1});
  CHECK(predicted({one, two}, 1).ranked == std::vector{1});
  CHECK(predicted({Row{2, 2, 2, 3}}, 3).ranked == std::vector{3, 0, 1});  // the lower of equals
  CHECK(predicted({Row{1000, -1000}}, 1).probabilities[0] == 1);
}

TEST_CASE("views: mirrored, and all turns of a square, each once") {
  CHECK(count_of(Views::none) == 1);
  CHECK(count_of(Views::flips) == 2);
  CHECK(count_of(Views::dihedral) == 8);
  constexpr int kSide = 3, kImages = 2;
  std::vector<uint8_t> images(kImages * kSide * kSide * 3), out(images.size());
  std::iota(images.begin(), images.end(), uint8_t{0});
  const auto view = [&](int which) {
    write_view(out.data(), images.data(), kImages, kSide, 3, which);
    return out;
  };
  const auto at = [&](const std::vector<uint8_t>& all, int image, int y, int x) {
    return all[size_t((image * kSide + y) * kSide + x) * 3];
  };
  CHECK(view(0) == images);
  CHECK(at(view(1), 0, 0, 0) == at(images, 0, 0, 2));  // left is right
  CHECK(at(view(1), 1, 2, 1) == at(images, 1, 2, 1));
  CHECK(at(view(2), 1, 0, 0) == at(images, 1, 2, 0));
  CHECK(at(view(4), 0, 2, 0) == at(images, 0, 0, 2));
  CHECK(out[1] == out[0] + 1);  // channels stay in order
  std::vector<std::vector<uint8_t>> all;
  for (int i = 0; i < 8; ++i) {
    all.push_back(view(i));
    for (int before = 0; before < i; ++before) CHECK(all[size_t(before)] != all.back());
    std::vector<uint8_t> sorted = all.back();  // no pixel is lost
    std::ranges::sort(sorted);
    CHECK(sorted == images);
  }
}

TEST_CASE("lines: text, a table that CSV readers read, JSON") {
  Prediction p = predicted({Row{0, 2, 1}}, 3);
  p.path = "a,\"b.png";
  const std::vector<std::string> classes = {"x", "y, z", "w"};
  const auto text_of = [&](PredictionForm form, int top, bool probabilities) {
    const PredictionText text(classes, 3, {form, top, probabilities});
    return text.head() + text.line(p);
  };
  CHECK(text_of(PredictionForm::text, 1, false) == "a,\"b.png: y, z (66.5%)\n");
  CHECK(text_of(PredictionForm::text, 9, false) ==
        "a,\"b.png: y, z (66.5%), w (24.5%), x (9.0%)\n");
  CHECK(text_of(PredictionForm::csv, 1, false) ==
        "path,class,class_index,probability\n\"a,\"\"b.png\",\"y, z\",1,0.665241\n");
  const Csv csv = parse_csv(text_of(PredictionForm::csv, 2, true), "csv");
  CHECK(csv.header == std::vector<std::string>{"path", "class", "class_index", "probability",
                                               "class_2", "class_index_2", "probability_2", "p:x",
                                               "p:y, z", "p:w"});
  REQUIRE(csv.rows.size() == 1);
  CHECK(csv.rows[0].fields == std::vector<std::string>{"a,\"b.png", "y, z", "1", "0.665241", "w",
                                                       "2", "0.244728", "0.090031", "0.665241",
                                                       "0.244728"});
  const auto json = parse_json<nlohmann::json>(text_of(PredictionForm::json, 2, true));
  CHECK(json["path"] == "a,\"b.png");
  CHECK(json["class"] == "y, z");
  CHECK(json["class_index"] == 1);
  CHECK(json["logits"] == nlohmann::json{0., 2., 1.});
  CHECK(json["top"].size() == 2);
  CHECK(json["top"][1]["class"] == "w");
  CHECK(json["probabilities"].size() == 3);
  CHECK(json["probabilities"]["x"].get<double>() == doctest::Approx(0.0900306).epsilon(1e-6));
  const auto short_json = parse_json<nlohmann::json>(text_of(PredictionForm::json, 1, false));
  CHECK_FALSE(short_json.contains("top"));
  CHECK_FALSE(short_json.contains("probabilities"));
  // 0.665 is too little.
  for (const double below : {0.66, 0.67}) {
    const auto marked = [&](PredictionForm form) {
      const PredictionText text(classes, 3, {.form = form, .reject_below = below});
      CHECK(text.withheld(p) == (below == 0.66 ? 0 : 1));
      return text.head() + text.line(p);
    };
    const bool answered = below == 0.66;
    CHECK(marked(PredictionForm::text) ==
          fmt::format("a,\"b.png: {}y, z (66.5%)\n",
                      answered ? "" : "not answered; the most likely is "));
    CHECK(marked(PredictionForm::csv) == fmt::format("path,class,class_index,probability,answered\n"
                                                     "\"a,\"\"b.png\",\"y, z\",1,0.665241,{}\n",
                                                     answered ? 1 : 0));
    CHECK(parse_json<nlohmann::json>(marked(PredictionForm::json))["answered"] == answered);
  }
  const PredictionText unnamed({}, 3, {});
  CHECK(unnamed.line(p) == "a,\"b.png: 1 (66.5%)\n");
}

TEST_CASE("lines of several labels mark those that are too near to their thresholds") {
  Prediction p{.path = "a.png",
               .logits = {2, 0.5f, -3, -0.4f},
               .probabilities = {0.9, 0.6, 0.05, 0.4},
               .ranked = {0, 1, 3}};
  const std::vector<std::string> names = {"star", "ring, big", "cross", "moon"};
  const std::vector<double> thresholds = {0.5, 0.5, 0.1, 0.5};
  const auto text_of = [&](PredictionForm form, std::optional<double> below) {
    const PredictionText text(names, 4, {.form = form, .reject_below = below}, thresholds);
    return text.head() + text.line(p);
  };
  // Confidences: 0.9, 0.6, (1/9) / (1/9 + 1/19) = 0.679, 0.6.
  CHECK(text_of(PredictionForm::text, {}) == "a.png: star (90.0%), ring, big (60.0%)\n");
  CHECK(text_of(PredictionForm::text, 0.65) ==
        "a.png: star (90.0%); not answered: ring, big (60.0%), moon (40.0%)\n");
  CHECK(text_of(PredictionForm::text, 0.95) ==
        "a.png: no label; not answered: star (90.0%), ring, big (60.0%), cross (5.0%), "
        "moon (40.0%)\n");
  CHECK(text_of(PredictionForm::csv, 0.68) ==
        "path,labels,not_answered,p:star,\"p:ring, big\",p:cross,p:moon\n"
        "a.png,\"star|ring, big\",\"ring, big|cross|moon\",0.900000,0.600000,0.050000,0.400000\n");
  const auto json = parse_json<nlohmann::json>(text_of(PredictionForm::json, 0.65));
  CHECK(json["not_answered"] == nlohmann::json{"ring, big", "moon"});
  REQUIRE(json["labels"].size() == 2);
  CHECK(json["labels"][0]["answered"] == true);
  CHECK(json["labels"][1]["answered"] == false);
  const auto all = parse_json<nlohmann::json>(text_of(PredictionForm::json, {}));
  CHECK_FALSE(all.contains("not_answered"));
  CHECK_FALSE(all["labels"][0].contains("answered"));
  const auto withheld = [&](double below) {
    return PredictionText(names, 4, {.reject_below = below}, thresholds).withheld(p);
  };
  CHECK(withheld(0.6) == 0);
  CHECK(withheld(0.65) == 2);
  CHECK(withheld(0.68) == 3);
}

TEST_CASE("several ranks: in the order of the images, and never far ahead") {
  constexpr int kRanks = 4, kSteps = 50;
  std::vector<int64_t> got;
  InOrder<int64_t> order(2 * kRanks, [&](int64_t&& value) { got.push_back(value); });
  {
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < kRanks; ++rank)
      ranks.emplace_back([&, rank] {
        for (int64_t step = 0; step < kSteps; ++step) {
          if (rank == 1 && step % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
          order.put(step * kRanks + rank, 1, step * kRanks + rank);
        }
      });
  }
  std::vector<int64_t> expected(kRanks * kSteps);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(got == expected);

  InOrder<int> stuck(3, [](int&&) {});
  std::string why;
  {
    std::jthread waits([&] {
      why = message_of([&] { stuck.put(3, 1, 0); }, Failure::collective);  // 0 never comes
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    stuck.abort();
  }
  CHECK(mentions(why, "another rank has failed"));
}

TEST_CASE("features: an array, and its paths beside it, both or none") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "f.npy";
  {
    FeaturesFile features(file, 2);
    features.append("a, b.jpg", Row{1, 2});
    features.append("c.jpg", Row{3, 4});
    CHECK(features.rows() == 2);
    CHECK_FALSE(std::filesystem::exists(folder.path() / "f.csv"));
    features.commit();
  }
  const Csv csv = read_csv(folder.path() / "f.csv");
  CHECK(csv.header == std::vector<std::string>{"path"});
  REQUIRE(csv.rows.size() == 2);
  CHECK(csv.rows[0].fields[0] == "a, b.jpg");
  CHECK(std::filesystem::file_size(file) == 128 + 4 * sizeof(float));
  CHECK(mentions(message_of([&] { FeaturesFile(folder.path() / "f.txt", 2); }, Failure::usage),
                 "a name that ends in .npy"));
}

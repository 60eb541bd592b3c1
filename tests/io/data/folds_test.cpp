#include "io/data/folds.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "engine/error.h"
#include "io/data/groups.h"
#include "io/data/labels.h"
#include "tests/io/data/lettered_set.h"
#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// Images by fold and class.
std::vector<std::vector<int>> table(const Dataset& data, const std::vector<int>& folds, int count) {
  std::vector<std::vector<int>> counts(size_t(count), std::vector<int>(data.classes.size()));
  for (size_t i = 0; i < folds.size(); ++i)
    ++counts.at(size_t(folds[i]) - 1).at(size_t(data.samples[i].label));
  return counts;
}

// The mean over the classes of the standard deviation over the folds of the share of the class.
double spread(const Dataset& data, const std::vector<int>& folds, int count) {
  const auto counts = table(data, folds, count);
  double sum = 0;
  for (size_t c = 0; c < data.classes.size(); ++c) {
    double all = 0, squares = 0;
    for (const auto& fold : counts) all += fold[c];
    for (const auto& fold : counts) squares += std::pow(fold[c] / all - 1. / count, 2);
    sum += std::sqrt(squares / count);
  }
  return sum / double(data.classes.size());
}

}  // namespace

TEST_CASE("folds: every class and all images are spread to within one image") {
  const Dataset all = data_set({103, 31, 7, 5});
  const std::vector<int> folds = sample_folds(all, 5, 3);
  CHECK(folds == sample_folds(all, 5, 3));
  CHECK(folds != sample_folds(all, 5, 4));
  std::vector<int> totals;
  const auto counts = table(all, folds, 5);
  for (const auto& fold : counts) {
    totals.push_back(fold[0] + fold[1] + fold[2] + fold[3]);
    for (size_t c = 0; c < 4; ++c) {
      const auto [least, most] = std::ranges::minmax(
          counts, {}, [&](const std::vector<int>& counts) { return counts[c]; });
      CHECK(most[c] - least[c] <= 1);
    }
  }
  CHECK(std::ranges::max(totals) - std::ranges::min(totals) <= 1);

  CHECK(mentions(message_of([&] { sample_folds(all, 6, 0); }),
                 "--folds 6: class \"d\" has images of 5 only that may be in different folds"));
  // Two of the five are copies.
  std::vector<uint32_t> units(all.samples.size());
  for (uint32_t i = 0; i < units.size(); ++i) units[i] = std::min<uint32_t>(i, 144);
  CHECK(mentions(message_of([&] { sample_folds(all, 5, 0, units); }),
                 "--folds 5: class \"d\" has images of 4 only"));
}

TEST_CASE("folds: groups stay together, and classes are spread as evenly as scikit-learn does") {
  const json recorded = golden("folds.json");
  for (const json& problem : recorded.at("problems")) {
    CAPTURE(problem.at("name").get<std::string>());
    const int count = problem.at("folds");
    Dataset all;
    std::vector<uint32_t> units;
    for (int c = 0; c < problem.at("classes"); ++c) all.classes.push_back(std::to_string(c));
    for (const json& group : problem.at("groups")) {
      const auto unit = units.empty() ? 0 : units.back() + 1;
      for (const json& part : group)
        for (int i = 0; i < part.at(1); ++i) {
          all.samples.push_back({std::to_string(units.size()), part.at(0)});
          units.push_back(unit);
        }
    }
    double sum = 0;
    constexpr int kSeeds = 10;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      const std::vector<int> folds = sample_folds(all, count, seed, units);
      for (size_t i = 1; i < units.size(); ++i)
        if (units[i] == units[i - 1]) CHECK(folds[i] == folds[i - 1]);
      std::vector<int> totals(static_cast<size_t>(count));
      for (const int fold : folds) ++totals.at(size_t(fold) - 1);
      CHECK(std::ranges::max(totals) - std::ranges::min(totals) <=
            0.1 * double(units.size()) / count);
      sum += spread(all, folds, count) / kSeeds;
    }
    CHECK(sum <= problem.at("spread").get<double>());
  }
}

TEST_CASE("folds: over the K runs each image validates once, and split.csv brings them back") {
  TemporaryFolder folder;
  const fs::path root = folder.path() / "data";
  for (const char* name : {"a", "b"})
    for (int i = 0; i < 5; ++i) {
      fs::create_directories(root / name);
      std::ofstream(root / name / fmt::format("p{}_{}.jpg", i / 2, i)) << name << i;
    }
  Dataset all = read_image_folder(root);
  set_groups(all, "^(p[0-9])_", root);
  for (Sample& sample : all.samples)  // so that groups do not join the classes
    sample.group = all.classes[size_t(sample.label)] + sample.group;
  const std::vector<int> folds = sample_folds(all, 3, 1, inseparable(all, {}));
  for (size_t i = 0; i < folds.size(); ++i) all.samples[i].fold = folds[i];
  all.samples[9].fold = 0;  // stays out
  std::map<std::string, int> validated;
  for (int fold = 1; fold <= 3; ++fold) {
    const TrainingData data = apply_split(all, parts_of_fold(all, fold));
    for (const Sample& sample : data.validation.samples) ++validated[sample.path];
    for (const Sample& sample : data.train.samples) CHECK(sample.fold != fold);
    REQUIRE(data.test.has_value());
    CHECK(data.test->samples.size() == 1);

    const std::string csv = split_csv(data, root);
    CHECK(csv.starts_with("path,label,split,fold,group\n"));
    CHECK(mentions(csv, "b/p2_4.jpg,b,test,,bp2\n"));
    std::ofstream(folder.path() / "split.csv") << csv;
    const Labels again = read_labels(folder.path() / "split.csv",
                                     {.root = root, .group_column = "group", .own = true});
    for (const Sample& sample : again.all.samples) {
      const auto before = std::ranges::find(all.samples, sample.path, &Sample::path);
      CHECK(sample.fold == before->fold);
    }
  }
  CHECK(validated.size() == 9);
  for (const auto& [path, times] : validated) CHECK(times == 1);

  std::ofstream(folder.path() / "bad.csv") << "path,label,split,fold\na/p0_0.jpg,a,train,x\n";
  CHECK(mentions(
      message_of([&] { read_labels(folder.path() / "bad.csv", {.root = root, .own = true}); }),
      "bad.csv, line 2: \"x\" is no fold: 1, 2, …"));
}

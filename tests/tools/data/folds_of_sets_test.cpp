// --folds and --fold: which images they divide, and what they contradict.
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <set>

#include "engine/error.h"
#include "tests/support.h"
#include "tools/data/image_sets.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// train/{a,b} with six files each, of three patients, and val/{a,b} with three, test/{a,b} with
// two; the last file of train/a is a copy of the first. No file is read as a picture here.
struct Set {
  TemporaryFolder folder;
  fs::path root = folder.path() / "set";

  Set() {
    for (const char* name : {"a", "b"}) {
      for (int i = 0; i < 6; ++i) write(root / "train" / name / patient(name, i / 2, i));
      for (int i = 6; i < 9; ++i) write(root / "val" / name / patient(name, i, i));
      for (int i = 9; i < 11; ++i) write(root / "test" / name / patient(name, i, i));
    }
    fs::copy_file(root / "train/a" / patient("a", 0, 0), root / "train/a" / patient("a", 2, 5),
                  fs::copy_options::overwrite_existing);
  }
  static std::string patient(const char* name, int patient, int image) {
    return fmt::format("{}{}_{}.png", name, patient, image);
  }
  static void write(const fs::path& file) {
    fs::create_directories(file.parent_path());
    std::ofstream(file) << file.string();
  }
  ImageSetOptions options(std::optional<int> folds, std::optional<int> fold) const {
    ImageSetOptions o;
    o.data = root;
    o.folds = folds;
    o.fold = fold;
    return o;
  }
};

std::map<std::string, int> folds_of(const Dataset& data) {
  std::map<std::string, int> folds;
  for (const Sample& sample : data.samples) folds[fs::path(sample.path).filename()] = sample.fold;
  return folds;
}

std::string usage_of(const ImageSetOptions& options) {
  return message_of([&] { load_training_data(options); }, Failure::usage);
}

}  // namespace

TEST_CASE(
    "folds of folders: train and val are dealt out, test stays out, every fold sees the same") {
  const Set set;
  ImageSetOptions o = set.options(3, std::nullopt);
  o.group_pattern = "^([ab][0-9]+)_";
  const FoldedData all = load_folds(o);
  CHECK(all.folds == 3);
  CHECK(all.all.samples.size() == 18);
  REQUIRE(all.test.has_value());
  CHECK(all.test->samples.size() == 4);
  const auto folds = folds_of(all.all);
  CHECK(folds.at("a0_0.png") == folds.at("a0_1.png"));  // a patient
  CHECK(folds.at("a0_0.png") == folds.at("a2_5.png"));  // a copy
  CHECK(folds.at("a2_4.png") == folds.at("a2_5.png"));  // and its patient
  std::set<std::string> validated;
  for (int fold = 1; fold <= 3; ++fold) {
    o.fold = fold;
    const TrainingData data = load_training_data(o);
    CHECK(data.drawn);
    CHECK(data.train.samples.size() + data.validation.samples.size() == 18);
    CHECK(data.test->samples.size() == 4);
    for (const auto& [name, number] : folds_of(data.validation)) {
      CHECK(number == fold);
      CHECK(validated.insert(name).second);
    }
    for (const auto& [name, number] : folds_of(data.train)) CHECK(number == folds.at(name));
    const EvaluationData part = load_evaluation_data(o, std::nullopt, {"a", "b"});
    CHECK(folds_of(part.images) == folds_of(data.validation));
    CHECK(folds_of(*part.train) == folds_of(data.train));
    CHECK(load_evaluation_data(o, Part::test, {"a", "b"}).images.samples.size() == 4);

    // As it is written down, with and without the number of folds.
    const fs::path file = set.folder.path() / "split.csv";
    std::ofstream(file) << split_csv(data, set.root);
    for (const std::optional<int> count : {std::optional<int>(), std::optional(3)}) {
      ImageSetOptions again = set.options(count, fold % 3 + 1);
      again.split_file = file;
      const TrainingData other = load_training_data(again);
      for (const auto& [name, number] : folds_of(other.validation)) {
        CHECK(number == fold % 3 + 1);
        CHECK(number == folds.at(name));
      }
      CHECK(other.test->samples.size() == 4);
    }
  }
  CHECK(validated.size() == 18);
}

TEST_CASE("folds of labels: the part test of a column split stays out") {
  const Set set;
  const fs::path file = set.root / "labels.csv";
  std::ofstream(file) << "path,label,split,patient\n"
                         "train/a/a0_0.png,a,train,1\ntrain/a/a0_1.png,a,val,1\n"
                         "train/a/a1_2.png,a,train,2\ntrain/b/b0_0.png,b,train,3\n"
                         "train/b/b1_2.png,b,val,4\ntrain/b/b2_4.png,b,test,5\n";
  ImageSetOptions o;
  o.labels = file;
  o.folds = 2;
  o.group_column = "patient";
  const FoldedData data = load_folds(o);
  const auto folds = folds_of(data.all);
  CHECK(folds.size() == 5);
  CHECK(folds.at("a0_0.png") == folds.at("a0_1.png"));
  CHECK(folds.at("a0_0.png") != folds.at("a1_2.png"));
  CHECK(data.test->samples.size() == 1);
}

TEST_CASE("folds: what is out of range or contradicts them is refused by name") {
  const Set set;
  CHECK(mentions(usage_of(set.options(3, std::nullopt)),
                 "--folds 3: which one validates? --fold 1 to 3"));
  CHECK(mentions(usage_of(set.options(3, 4)), "--fold 4: there are folds 1 to 3"));
  CHECK(mentions(usage_of(set.options(std::nullopt, 1)), "--fold 1 of how many? --folds K"));
  ImageSetOptions o = set.options(3, 1);
  o.split = "0.8/0.2";
  CHECK(mentions(usage_of(o), "--split and --folds both divide the images"));
  o = set.options(3, 1);
  o.stratify = true;
  CHECK(mentions(usage_of(o), "--stratify is for --split"));
  o = set.options(9, 1);  // 9 images of a class, two of which are copies
  CHECK(mentions(message_of([&] { load_training_data(o); }),
                 "--folds 9: class \"a\" has images of 8 only"));
  o = set.options(std::nullopt, 2);
  o.split_file = set.folder.path() / "split.csv";
  std::ofstream(o.split_file) << "path,label,split\ntrain/a/a0_0.png,a,train\n";
  CHECK(mentions(message_of([&] { load_training_data(o); }), "split.csv has no fold for"));
  std::ofstream(o.split_file)
      << "path,label,split,fold\ntrain/a/a0_0.png,a,train,1\ntrain/b/b0_0.png,b,val,3\n";
  CHECK(mentions(message_of([&] { load_training_data(o); }), "are 1, 3, not 1 to 3"));
  std::ofstream(o.split_file)
      << "path,label,split,fold\ntrain/a/a0_0.png,a,train,1\ntrain/b/b0_0.png,b,val,2\n";
  o.folds = 5;
  CHECK(mentions(usage_of(o), "--folds 5: "));
  CHECK(mentions(usage_of(o), "split.csv has 2 folds"));
}

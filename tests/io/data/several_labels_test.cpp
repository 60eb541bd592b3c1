// Several labels per image: files of labels, stratified splits, what a split is written as,
// batches.
#include <fstream>
#include <map>

#include "engine/error.h"
#include "io/data/folds.h"
#include "io/data/label_split.h"
#include "io/data/labels.h"
#include "io/data/loader.h"
#include "io/data/presence.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

constexpr Presence N = Presence::absent, Y = Presence::present, Q = Presence::missing;
using Names = std::vector<std::string>;
using Row = std::vector<Presence>;

struct Folder {
  Folder() {
    for (const char* name : {"a.jpg", "b.jpg", "c.jpg"}) write_text(root / name, "x");
  }
  Labels read(std::string_view text, LabelFile how) const {
    how.root = root;
    write_text(file, text);
    return read_labels(file, how);
  }
  std::string error(std::string_view text, const LabelFile& how) const {
    return message_of([&] { training_data(read(text, how), file); });
  }
  TemporaryFolder folder;
  fs::path root = folder.path(), file = root / "labels.csv";
};

// Images with labels of their own chances, of which the last is rare.
Dataset drawn(size_t images, uint32_t seed) {
  Dataset data{.task = Task::labels, .classes = {"a", "b", "c", "rare"}};
  uint32_t state = seed;
  const auto below = [&](uint32_t end) {
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % end;
  };
  for (size_t i = 0; i < images; ++i)
    data.samples.push_back({.path = fmt::format("{}", i),
                            .labels = {below(2) ? Y : N, below(3) ? N : Y, below(6) ? N : Y,
                                       below(40) == 0 ? Y
                                       : below(9)     ? N
                                                      : Q}});
  return data;
}

}  // namespace

TEST_CASE("several labels: a column of 1, 0 and nothing for each, in the order that is asked for") {
  const Folder f;
  const std::string text =
      "path,ring,note,star,disk,split\na.jpg,1,x,0,,train\nb.jpg, 0.0 ,,1.0, 1,train\n"
      "c.jpg,,,,0,val\n";
  Labels labels = f.read(text, {.label_columns = {"disk", "ring", "star"}});
  CHECK(labels.all.task == Task::labels);
  CHECK(labels.all.classes == Names{"disk", "ring", "star"});
  CHECK(labels.all.samples[0].labels == Row{Q, Y, N});
  CHECK(labels.all.samples[1].labels == Row{Y, N, Y});
  CHECK(labels.all.samples[2].labels == Row{N, Q, Q});
  CHECK(label_text(labels.all, labels.all.samples[0]) == "disk?|ring");
  CHECK(images_by_class(labels.all) == std::vector<size_t>{1, 1, 1});
  const Names known = {"star", "disk", "ring"};
  labels = f.read(text, {.label_columns = {"disk", "ring", "star"}, .classes = known});
  CHECK(labels.all.classes == known);
  CHECK(labels.all.samples[0].labels == Row{N, Q, Y});
}

TEST_CASE("several labels: a list of names in one column") {
  const Folder f;
  const std::string text = "path,label\na.jpg, star | ring\nb.jpg,\nc.jpg,x10\n";
  Labels labels = f.read(text, {.separator = "|"});
  CHECK(labels.all.classes == Names{"ring", "star", "x10"});
  CHECK(labels.all.samples[0].labels == Row{Y, Y, N});
  CHECK(labels.all.samples[1].labels == Row{N, N, N});
  const Names known = {"star", "ring", "x10", "more"};
  labels = f.read(text, {.separator = "|", .classes = known});
  CHECK(labels.all.samples[0].labels == Row{Y, Y, N, N});
  CHECK(parse_label_list("a, b", ", ", [] { return ""; }) == Names{"a", "b"});
}

TEST_CASE("bad cells of several labels are told with file, line, column and value") {
  const Folder f;
  const LabelFile columns{.label_columns = {"ring", "star"}};
  CHECK(mentions(f.error("path,ring,star\na.jpg,1,0\nb.jpg,0,-1.0\n", columns),
                 "labels.csv, line 3, column star: \"-1.0\" is neither 1 nor 0, nor nothing"));
  CHECK(mentions(f.error("path,ring\na.jpg,1\n", columns),
                 "labels.csv, line 1: no column star of a label"));
  CHECK(mentions(f.error("path,ring,star,split\na.jpg,1,0,train\nb.jpg,1,1,val\n", columns),
                 "labels.csv, line 3: class \"star\" has no image to train with"));
  CHECK(mentions(f.error("path,ring,star,split\na.jpg,1,0,train\nb.jpg,1,0,val\n", columns),
                 "class \"star\" has no image to train with"));
  CHECK(mentions(message_of(
                     [&] {
                       f.read("path,ring\na.jpg,1\n", {.label_columns = {"ring", "ring"}});
                     },
                     Failure::usage),
                 "--label-columns: ring is named twice"));
  const LabelFile list{.separator = "|"};
  CHECK(mentions(f.error("path,label\na.jpg,ring||star\n", list),
                 "labels.csv, line 2, column label: \"ring||star\" has an empty label"));
  CHECK(mentions(f.error("path,label\na.jpg,ring|ring\n", list), "has ring twice"));
  CHECK(mentions(f.error("path,label\na.jpg,\n", list), "no image has a label"));
  const Names known = {"ring"};
  CHECK(mentions(
      f.error("path,label\na.jpg,ring\nb.jpg,star\n", {.separator = "|", .classes = known}),
      "labels.csv, line 3: label \"star\" is not one of the 1 trained on"));
  const Names other = {"ring", "disk"};
  CHECK(mentions(
      f.error("path,ring,star\na.jpg,1,0\n", {.label_columns = {"ring", "star"}, .classes = other}),
      "no column of the label \"disk\", one of the 2 trained on"));
}

TEST_CASE("a split of several labels is written and read again, missing labels and groups too") {
  const Folder f;
  Labels labels =
      f.read("path,who,\"a,1\",b,split\na.jpg,p,1,,train\nb.jpg,q,0,1,train\nc.jpg,p,1,0,val\n",
             {.label_columns = {"a,1", "b"}, .group_column = "who"});
  const TrainingData data = training_data(labels, f.file);
  const std::string csv = split_csv(data, f.root);
  CHECK(csv ==
        "path,split,group,\"y:a,1\",y:b\na.jpg,train,p,1,\nb.jpg,train,q,0,1\nc.jpg,val,p,1,0\n");
  const Labels again = f.read(csv, {.group_column = "group", .own = true});
  CHECK(again.all.task == Task::labels);
  CHECK(again.all.classes == labels.all.classes);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(again.all.samples[i].labels == labels.all.samples[i].labels);
    CHECK(again.all.samples[i].group == labels.all.samples[i].group);
  }
  CHECK(again.parts == labels.parts);
}

TEST_CASE(
    "iterative stratification gives every label its shares, also where groups stay together") {
  const Shares shares = {0.6, 0.15, 0.25};
  for (const bool grouped : {false, true})
    for (const uint32_t seed : {1u, 2u, 3u}) {
      const Dataset data = drawn(1000, seed);
      std::vector<uint32_t> units;
      for (uint32_t i = 0; grouped && i < 1000; ++i) units.push_back(i / (1 + i % 2 + 2));
      std::map<uint32_t, uint32_t> numbers;  // without gaps
      for (uint32_t& unit : units)
        unit = numbers.emplace(unit, uint32_t(numbers.size())).first->second;
      const std::vector<Part> parts = sample_split(data, shares, true, seed, units);
      CHECK(parts == label_split(data, shares, seed, units));
      const auto sets = by_part(data, parts);
      const std::vector<size_t> all = images_by_class(data);
      for (size_t part = 0; part < 3; ++part) {
        CHECK(sets[part].task == Task::labels);
        CHECK(std::abs(double(sets[part].samples.size()) - 1000 * shares[part]) <= 12);
        const std::vector<size_t> counts = images_by_class(sets[part]);
        for (size_t c = 0; c < all.size(); ++c) {
          CAPTURE(c);
          CHECK(std::abs(double(counts[c]) - double(all[c]) * shares[part]) <= (grouped ? 4 : 1.5));
        }
      }
      std::map<uint32_t, Part> part_of;
      for (size_t i = 0; i < units.size(); ++i)
        CHECK(part_of.emplace(units[i], parts[i]).first->second == parts[i]);
    }
  // Nothing goes to a part without a share.
  for (const Part part : label_split(drawn(60, 4), {0.8, 0.2, 0}, 1)) CHECK(part != Part::test);
}

TEST_CASE("folds of several labels: every label is spread evenly, and groups stay together") {
  constexpr int kFolds = 5;
  for (const bool grouped : {false, true})
    for (const uint64_t seed : {1u, 2u, 3u}) {
      const Dataset data = drawn(1000, uint32_t(seed));
      std::vector<uint32_t> units;
      for (uint32_t i = 0; grouped && i < 1000; ++i) units.push_back(i / 3);
      const std::vector<int> folds = sample_folds(data, kFolds, seed, units);
      CHECK(folds == sample_folds(data, kFolds, seed, units));
      CHECK(folds != sample_folds(data, kFolds, seed + 1, units));
      const std::vector<size_t> all = images_by_class(data);
      for (int fold = 1; fold <= kFolds; ++fold) {
        double images = 0;
        std::vector<double> with(all.size());
        for (size_t i = 0; i < folds.size(); ++i) {
          if (folds[i] != fold) continue;
          ++images;
          for (size_t c = 0; c < all.size(); ++c) with[c] += data.samples[i].labels[c] == Y;
        }
        CHECK(std::abs(images - 200) <= (grouped ? 15 : 6));
        for (size_t c = 0; c < all.size(); ++c) {
          CAPTURE(c);
          CHECK(std::abs(with[c] - double(all[c]) / kFolds) <= (grouped ? 3 : 1.5));
        }
      }
      for (size_t i = 1; i < units.size(); ++i)
        if (units[i] == units[i - 1]) CHECK(folds[i] == folds[i - 1]);
    }
  // A label of one group alone would be missing where its fold validates.
  Dataset data = drawn(12, 4);
  for (size_t i = 0; i < 12; ++i)
    data.samples[i].labels = {i % 2 ? Y : N, Y, i % 3 ? Y : N, i < 2 ? Y : N};
  const std::vector<uint32_t> units = {0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  CHECK(mentions(message_of([&] { sample_folds(data, 3, 1, units); }),
                 "--folds 3: label \"rare\" has images of 1 only that may be in different folds"));
  CHECK(sample_folds(data, 3, 1).size() == 12);
}

TEST_CASE("batches carry the labels of their images, and the balanced sampler refuses them") {
  const Dataset data = drawn(10, 5);
  const auto picture = [](size_t, const RandomKey&) { return Image(2, 2, 3); };
  LoaderOptions options{.width = 2, .height = 2, .batch = 4, .threads = 2, .seed = 3};
  Loader loader(data, Prepare(picture), options);
  loader.start(1);
  int seen = 0;
  while (const Batch* batch = loader.next()) {
    REQUIRE(batch->labels.labels);
    CHECK(batch->labels.classes == nullptr);
    for (int i = 0; i < batch->count; ++i, ++seen)
      for (size_t c = 0; c < data.classes.size(); ++c)
        CHECK(batch->labels.labels[size_t(i) * data.classes.size() + c] ==
              data.samples[batch->indices[size_t(i)]].labels[c]);
  }
  CHECK(seen == 10);
  CHECK(mentions(message_of([&] { balanced_order(data, 1, 0); }, Failure::usage),
                 "--sampler balanced draws classes"));
}

// The runs of a cross-validation, read back from their folders.
#include "tools/score/fold_runs.h"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "engine/error.h"
#include "tests/support.h"
#include "tools/score/label_score.h"
#include "tools/score/score.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// Two runs of two folds, over four images of two classes with groups, and one of the part test.
struct Runs {
  TemporaryFolder folder;

  Runs() {
    for (int fold = 1; fold <= 2; ++fold) {
      const fs::path run = path(fold);
      write_text(run / "classes.txt", "cat\ndog, big\n");
      write_text(run / "args.json",
                 fmt::format("{{\"data\":\"/set\",\"labels\":\"\",\"image_root\":null,"
                             "\"model\":\"mnist_cnn\",\"lr\":0.1,\"fold\":{}}}",
                             fold));
      write_split(fold, "1", "2");
    }
    write_text(path(1) / "predictions.csv",
               "path,label,prediction,p_prediction,p_label,loss,p:cat,\"p:dog, big\"\n"
               "set/cat/1.png,cat,cat,0.9,0.9,0.1,0.9,0.1\n"
               "\"set/dog, big/2.png\",\"dog, big\",cat,1,0,99,1,0\n"
               "\"set/dog, big/3.png\",\"dog, big\",\"dog, big\",0.75,0.75,0.28,0.25,0.75\n");
    write_text(path(2) / "predictions.csv",
               "path,label,prediction,p_prediction,p_label,loss,p:cat,\"p:dog, big\"\n"
               "set/cat/4.png,cat,cat,0.625,0.625,0.47,0.625,0.375\n");
  }
  fs::path path(int fold) const { return folder.path() / fmt::format("fold_{}", fold); }
  // The folds of the first image and of the last.
  void write_split(int fold, const char* first, const char* last) const {
    std::string text = "path,label,split,fold,group\n";
    const auto row = [&](const char* path, const char* label, std::string_view of,
                         const char* group) {
      text += fmt::format("\"{}\",\"{}\",{},{},{}\n", path, label,
                          of == std::to_string(fold) ? "val" : "train", of, group);
    };
    row("cat/1.png", "cat", first, "p1");
    row("dog, big/2.png", "dog, big", "1", "p1");
    row("dog, big/3.png", "dog, big", "1", "p2");
    row("cat/4.png", "cat", last, "p3");
    write_text(path(fold) / "split.csv", text + "cat/5.png,cat,test,,\n");
  }
  PooledRuns pool(bool force = false) const {
    return pool_runs({read_fold_run(path(2)), read_fold_run(path(1))}, force);
  }
  std::string fails(bool force = false) const {
    return message_of([&] { pool(force); });
  }
};

void replace(const fs::path& file, const std::string& from, const std::string& to) {
  std::ifstream in(file);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  write_text(file, text.replace(at, from.size(), to));
}

}  // namespace

TEST_CASE("folds are pooled: every image once, with its group, and the softmax gives p again") {
  const Runs runs;
  const PooledRuns pooled = runs.pool();
  CHECK(pooled.remarks.empty());
  CHECK(pooled.runs[0].fold == 1);
  CHECK(pooled.runs[1].fold == 2);
  REQUIRE(pooled.data.samples.size() == 4);
  const Sample& second = pooled.data.samples[1];
  CHECK(second.path == "/set/dog, big/2.png");  // below the data of args.json
  CHECK(second.label == 1);
  CHECK(second.group == "p1");
  CHECK(second.fold == 1);
  CHECK(pooled.data.samples[3].fold == 2);
  const std::vector<double> p = softmax_rows(pooled.result.logits, 2);
  const double expected[] = {0.9, 0.1, 1, 0, 0.25, 0.75, 0.625, 0.375};
  for (size_t i = 0; i < p.size(); ++i) CHECK(std::abs(p[i] - expected[i]) < 1e-7);
  CHECK(score(pooled.result, pooled.data, {.resamples = 0}).metrics.top1 == 0.75);

  const std::string both[] = {runs.folder.path().string()};
  CHECK(expand_runs(both) == std::vector{runs.path(1), runs.path(2)});
  const std::string one[] = {runs.path(2).string()};
  CHECK(expand_runs(one) == std::vector{runs.path(2)});
}

TEST_CASE("folds that do not belong together are refused, with what differs") {
  const auto after = [](const std::function<void(const Runs&)>& change, bool force = false) {
    const Runs runs;
    change(runs);
    return runs.fails(force);
  };
  CHECK(mentions(after([](const Runs& runs) { runs.write_split(2, "2", "2"); }),
                 "fold_2 is not of the cross-validation of"));
  CHECK(mentions(after([](const Runs& runs) { runs.write_split(2, "2", "2"); }, true),
                 "cat/1.png is cat, fold 1 there, cat, fold 2 here"));
  CHECK(mentions(after([](const Runs& runs) {
                   replace(runs.path(2) / "split.csv", "cat/5.png", "cat/6.png");
                 }),
                 "cat/6.png is missing there"));
  CHECK(mentions(after([](const Runs& runs) {
                   write_text(runs.path(2) / "classes.txt", "cat\ndog, big\nemu\n");
                 }),
                 "no column p:emu"));
  CHECK(mentions(
      after([](const Runs& runs) { replace(runs.path(2) / "args.json", "mnist_cnn", "resnet50"); }),
      "fold_2 trains resnet50, "));
  CHECK(mentions(after([](const Runs& runs) { fs::remove(runs.path(2) / "split.csv"); }),
                 "fold_2: no run of a fold"));
  CHECK(mentions(after([](const Runs& runs) { fs::remove(runs.path(1) / "predictions.csv"); }),
                 "fold_1: no predictions.csv: the run is not finished"));
  CHECK(mentions(
      after([](const Runs& runs) { replace(runs.path(1) / "predictions.csv", "0.25", "x"); }),
      "predictions.csv, line 4: \"x\" is no probability"));
  CHECK(mentions(after([](const Runs& runs) {
                   replace(runs.path(1) / "predictions.csv", "set/cat/1.png", "set/cat/7.png");
                 }),
                 "set/cat/7.png is not among the validation images of split.csv"));

  const Runs runs;
  CHECK(mentions(message_of([&] { pool_runs({read_fold_run(runs.path(2))}, false); }),
                 "of 2 folds 1 have no run here: 1"));
  CHECK(mentions(message_of([&] {
                   pool_runs({read_fold_run(runs.path(2)), read_fold_run(runs.path(2))}, false);
                 }),
                 "are both fold 2"));
}

TEST_CASE("what is forced, what differs and what is missing is said") {
  const Runs runs;
  replace(runs.path(2) / "args.json", "mnist_cnn", "resnet50");
  replace(runs.path(2) / "args.json", "0.1", "0.2");
  replace(runs.path(1) / "predictions.csv", "set/cat/1.png,cat,cat,0.9,0.9,0.1,0.9,0.1\n", "");
  const PooledRuns pooled = runs.pool(true);
  CHECK(pooled.data.samples.size() == 3);
  REQUIRE(pooled.remarks.size() == 3);
  CHECK(mentions(pooled.remarks[0], "fold 1: of 3 images 1 have no prediction"));
  CHECK(mentions(pooled.remarks[1], "fold_2: lr is 0.2, in"));
  CHECK(mentions(pooled.remarks[2], "model is \"resnet50\""));
  const PooledRuns half = pool_runs({read_fold_run(runs.path(2))}, true);
  CHECK(mentions(half.remarks[0], "of 2 folds 1 are not in it: 1"));
}

TEST_CASE("folds of several labels: labels, missing ones, groups and the run's own logits") {
  const TemporaryFolder folder;
  const float logits[] = {-20.5f, 3.25f, 0, -0.1f, 20.75f, 90, -700, 1e-7f};
  const char* const present[] = {"1", "0", "", "1", "0", "1", "", "0"};
  std::string split = "path,split,fold,group,y:ring,\"y:a,b\"\n";
  const auto split_of = [&](int fold) {
    std::string text = split;
    for (int i = 0; i < 4; ++i)
      text += fmt::format("{}.png,{},{},p{},{},{}\n", i, i / 2 + 1 == fold ? "val" : "train",
                          i / 2 + 1, i, present[2 * i], present[2 * i + 1]);
    return text;
  };
  const auto run = [&](int fold) { return folder.path() / fmt::format("fold_{}", fold); };
  for (int fold = 1; fold <= 2; ++fold) {
    write_text(run(fold) / "classes.txt", "ring\na,b\n");
    write_text(run(fold) / "args.json",
               "{\"labels\":\"/set/l.csv\",\"model\":\"m\","
               "\"threshold_rule\":\"sensitivity@0.9\",\"reject_accuracy\":0.8}");
    write_text(run(fold) / "split.csv", split_of(fold));
    // As a run writes them.
    Dataset data{.task = Task::labels, .classes = {"ring", "a,b"}};
    EvaluationResult result;
    for (int i = 2 * fold - 2; i < 2 * fold; ++i) {
      Sample sample{.path = fmt::format("/set/{}.png", i), .group = fmt::format("p{}", i)};
      for (int c = 0; c < 2; ++c) {
        const std::string text = present[2 * i + c];
        sample.labels.push_back(text.empty()  ? Presence::missing
                                : text == "1" ? Presence::present
                                              : Presence::absent);
        result.logits.push_back(logits[2 * i + c]);
      }
      result.counted.push_back(1);
      data.samples.push_back(sample);
    }
    write_label_score(run(fold), result, data, {.resamples = 0});
  }
  const PooledRuns pooled = pool_runs({read_fold_run(run(2)), read_fold_run(run(1))}, false);
  CHECK(pooled.data.task == Task::labels);
  CHECK(to_string(rules_of(pooled.runs[0]).thresholds) == "sensitivity@0.9");
  CHECK(rules_of(pooled.runs[0]).reject_accuracy == 0.8);
  CHECK(pooled.runs[0].root() == "/set");
  CHECK(rules_of(Runs().pool().runs[0]).reject_accuracy == 0.95);
  REQUIRE(pooled.data.samples.size() == 4);
  for (size_t i = 0; i < 8; ++i) {
    CHECK(text_of(pooled.data.samples[i / 2].labels[i % 2]) == present[i]);
    CAPTURE(i);
    if (i == 5)  // its probability is 1
      CHECK(pooled.result.logits[i] == doctest::Approx(36.7).epsilon(1e-2));
    else if (i < 6)
      CHECK(pooled.result.logits[i] == logits[i]);
    else
      CHECK(pooled.result.logits[i] == doctest::Approx(logits[i]).epsilon(1e-5));
  }
  CHECK(pooled.data.samples[1].path == "/set/1.png");
  CHECK(pooled.data.samples[3].group == "p3");
  CHECK(pooled.data.samples[3].fold == 2);

  // Another label is another split, and classes are another task.
  replace(run(2) / "split.csv", "0.png,train,1,p0,1,0", "0.png,train,1,p0,1,");
  CHECK(mentions(message_of([&] {
                   pool_runs({read_fold_run(run(1)), read_fold_run(run(2))}, false);
                 }),
                 "0.png is ring, fold 1 there, ring|a,b?, fold 1 here"));
  const Runs classes;
  CHECK(mentions(message_of([&] {
                   pool_runs({read_fold_run(run(1)), read_fold_run(classes.path(2))}, false);
                 }),
                 "fold_2 has one class per image, "));
  replace(run(2) / "predictions.csv", ",0,", ",2,");
  CHECK(mentions(message_of([&] { read_fold_run(run(2)); }), "is neither 1 nor 0, nor nothing"));
}

// Several labels per image through the program: from the CSV over a run and its files to eval,
// predict and export, interrupted and over ranks; and what is refused.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "io/files/csv.h"
#include "io/images/draw.h"
#include "io/weights/safetensors.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* kColumns = "cross,ring,star,stripes,triangle";

struct Scenes {
  Scenes() {
    draw_dataset(set, DrawnSet::scenes,
                 {.train_per_class = 4, .validation_per_class = 2, .size = 48, .missing = 0.2});
  }
  std::string path(const char* name) const { return folder.path() / name; }
  std::string flags() const {
    return fmt::format(
        "train --labels {}/labels.csv --label-columns {} --model mnist_cnn --image-size 24 "
        "--device cpu --threads 1 --cache none --lr 0.01 ",
        set.string(), kColumns);
  }
  void train(const char* name, const std::string& more) const {
    const Outcome outcome = engine_cli(flags() + more + fmt::format(" --out {}", path(name)));
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
  }
  TemporaryFolder folder;
  fs::path set = folder.path() / "set";
};

std::vector<double> losses(const fs::path& run) {
  std::vector<double> values;
  const Csv csv = read_csv(run / "results.csv");
  for (const CsvRow& row : csv.rows)
    for (const char* column : {"train/loss", "val/loss"})
      values.push_back(std::stod(row.fields[size_t(csv.column(column))]));
  return values;
}

// The part of the pairs of a positive and a negative in which the positive has the larger p, where
// the label is known.
double area(const Csv& predictions, const std::string& label) {
  const auto y = size_t(predictions.column("y:" + label)),
             p = size_t(predictions.column("p:" + label));
  double pairs = 0, won = 0;
  for (const CsvRow& one : predictions.rows)
    for (const CsvRow& other : predictions.rows) {
      if (one.fields[y] != "1" || other.fields[y] != "0") continue;
      const double a = std::stod(one.fields[p]), b = std::stod(other.fields[p]);
      ++pairs, won += a > b ? 1 : a == b ? 0.5 : 0;
    }
  return won / pairs;
}

}  // namespace

TEST_CASE("a run with several labels leaves what eval, predict and export read") {
  const Scenes scenes;
  scenes.train("run",
               "--batch-size 8 --epochs 2 --positive-weights auto --label-smoothing 0.05 "
               "--reject-accuracy 0.8 --watch star:recall");
  for (const json& epoch : events(scenes.path("run"), "epoch"))
    CHECK(epoch["watch"] == "star:recall");
  const fs::path run = scenes.path("run"), best = run / "weights/best.safetensors";
  CHECK(read(run / "classes.txt") == "cross\nring\nstar\nstripes\ntriangle\n");
  CHECK_FALSE(fs::exists(run / "confusion_matrix.csv"));
  const json val = parse_json<json>(read(run / "metrics.json"))["val"];
  CHECK(val["task"] == "multilabel");
  CHECK(val["samples"] == 20);
  REQUIRE(val["labels"].size() == 5);
  CHECK(val["labels"][2]["name"] == "star");
  CHECK(val["thresholds"]["rule"] == "youden");
  const Csv predictions = read_csv(run / "predictions.csv");
  CHECK(fmt::format("{}", fmt::join(predictions.header, ",")) ==
        "path,y:cross,y:ring,y:star,y:stripes,y:triangle,p:cross,p:ring,p:star,p:stripes,"
        "p:triangle");
  CHECK(predictions.rows.size() == 20);
  std::set<std::string> curves;
  for (const char* name : {"roc.csv", "pr.csv"})
    for (const CsvRow& row : read_csv(run / name).rows) curves.insert(row.fields[0]);
  CHECK(curves.contains("(micro)"));
  CHECK(curves.contains("cross"));
  const auto metadata = read_safetensors(best).metadata;
  CHECK(metadata.at("task") == "multilabel");
  const json thresholds = parse_json<json>(metadata.at("thresholds"))["classes"];
  CHECK(thresholds["ring"]["threshold"] == val["thresholds"]["classes"]["ring"]["threshold"]);

  // eval knows the columns and the thresholds from the weights.
  const fs::path again = scenes.path("again");
  const std::string weights =
      fmt::format("--device cpu --threads 1 --batch-size 8 --weights {} ", best.string());
  const Outcome eval = engine_cli(fmt::format("eval {} --labels {}/labels.csv --json --out {}",
                                              weights, scenes.set.string(), again.string()));
  INFO(eval.err);
  REQUIRE(eval.code == 0);
  const json figures = parse_json<json>(eval.out);
  CHECK(figures["thresholds"]["chosen_here"] == false);
  CHECK(figures["labels"] == val["labels"]);
  CHECK(read(again / "predictions.csv") == read(run / "predictions.csv"));

  // predict lists the labels that reach their thresholds.
  const std::string image = predictions.rows[3].fields[0];
  const Outcome csv = engine_cli(fmt::format("predict --csv {} {}", weights, image));
  INFO(csv.err);
  const Csv table = parse_csv(csv.out, "predict");
  REQUIRE(table.rows.size() == 1);
  CHECK(table.header.size() == 7);
  std::string expected;
  for (size_t c = 0; c < 5; ++c) {
    const double p = std::stod(predictions.rows[3].fields[6 + c]);
    CHECK(std::abs(std::stod(table.rows[0].fields[2 + c]) - p) < 1e-5);
    const std::string name = predictions.header[1 + c].substr(2);
    const json& threshold = thresholds[name]["threshold"];
    if (p >= (threshold.is_null() ? 0.5 : threshold.get<double>()))
      expected += (expected.empty() ? "" : "|") + name;
  }
  CHECK(table.rows[0].fields[1] == expected);
  const json line =
      parse_json<json>(engine_cli(fmt::format("predict --json {} {}", weights, image)).out);
  CHECK(line["probabilities"].size() == 5);
  CHECK(line["logits"].size() == 5);

  // The temperature and what is sure enough stand with the weights, and serve eval and predict.
  REQUIRE(metadata.contains("temperature"));
  CHECK(val["temperature"] == std::stod(metadata.at("temperature")));
  CHECK(val["calibrated"]["loss"].get<double>() <= val["loss"].get<double>());
  const json reject = parse_json<json>(metadata.at("reject"));
  CHECK(reject["accuracy"] == 0.8);
  REQUIRE(reject["threshold"].is_number());
  CHECK(val["reject_threshold"]["threshold"] == reject["threshold"]);
  CHECK(val["reject_threshold"]["accuracy"].get<double>() >= 0.8);
  CHECK(val["thresholds"]["chosen_here"] == true);
  for (const char* member : {"calibrated", "reject", "reject_threshold"})
    CHECK(figures[member] == val[member]);
  const json calibrated =
      parse_json<json>(engine_cli(fmt::format("eval {} --labels {}/labels.csv --json --calibrated",
                                              weights, scenes.set.string()))
                           .out);
  CHECK(calibrated["loss"] == val["calibrated"]["loss"]);
  CHECK(calibrated["hamming_loss"] == val["hamming_loss"]);
  const Outcome marked = engine_cli(fmt::format("predict --csv --reject {} {}", weights, image));
  INFO(marked.err);
  REQUIRE(marked.code == 0);
  const Csv open = parse_csv(marked.out, "predict");
  CHECK(open.header[2] == "not_answered");
  CHECK(open.rows[0].fields[1] == expected);
  std::string unsure;
  int withheld = 0;
  for (size_t c = 0; c < 5; ++c) {
    const double p = std::stod(predictions.rows[3].fields[6 + c]);
    const std::string name = predictions.header[1 + c].substr(2);
    const json& threshold = thresholds[name]["threshold"];
    const double t = threshold.is_null() ? 0.5 : threshold.get<double>();
    const double odds = std::abs(std::log(p / (1 - p)) - std::log(t / (1 - t)));
    if (1 / (1 + std::exp(-odds)) >= reject["threshold"].get<double>()) continue;
    unsure += (unsure.empty() ? "" : "|") + name;
    ++withheld;
  }
  CHECK(open.rows[0].fields[2] == unsure);
  CHECK(mentions(marked.err, fmt::format("{} of 5 labels of 1 images not answered", withheld)));
  const double temperature = std::stod(metadata.at("temperature"));
  const Outcome cooled =
      engine_cli(fmt::format("predict --json --calibrated {} {}", weights, image));
  const json at_t = parse_json<json>(cooled.out);
  std::string same;
  for (const json& label : at_t["labels"])
    same += (same.empty() ? "" : "|") + label["name"].get<std::string>();
  CHECK(same == expected);
  CHECK(at_t["probabilities"]["star"].get<double>() ==
        doctest::Approx(1 / (1 + std::exp(-at_t["logits"][2].get<double>() / temperature)))
            .epsilon(1e-6));

  const Outcome onnx =
      engine_cli(fmt::format("export {} --onnx {}", best.string(), scenes.path("model.onnx")));
  CHECK(onnx.code == 0);
  CHECK(mentions(onnx.err, "a sigmoid makes the probability of each"));
  for (const char* member : {"multilabel", "temperature", "thresholds", "reject"})
    CHECK(mentions(read(scenes.path("model.onnx")), member));

  // Weights of labels tell nothing of classes.
  const Drawn classes(1, 1);
  check_fails(engine_cli(fmt::format("eval {} --data {}", weights, classes.set.string())), 3,
              "is not one of the 5 classes trained on");
}

TEST_CASE("several labels: an interrupted run ends as a calm one, other labels are refused") {
  const Scenes scenes;
  const std::string recipe = "--batch-size 7 --epochs 2 --positive-weights auto";
  scenes.train("calm", recipe);
  scenes.train("cut", recipe + " --max-steps 8");
  CHECK(last_state(scenes.path("cut")) != last_state(scenes.path("calm")));
  const std::string resume = fmt::format("train --resume {} --max-steps 0", scenes.path("cut"));
  REQUIRE(engine_cli(resume).code == 0);
  CHECK(last_state(scenes.path("cut")) == last_state(scenes.path("calm")));
  const fs::path file = scenes.set / "labels.csv";
  std::string text = read(file);
  const size_t at = text.find(",train,1");
  REQUIRE(at != std::string::npos);
  text[at + 7] = '0';
  write_text(file, text);
  check_fails(engine_cli(resume + " --epochs 3"), 3,
              "the labels are not those of the run to resume");
}

// The ranks have different numbers of known labels, so that a mean of their means would be another.
TEST_CASE("several labels: ranks and accumulated batches train as one batch") {
  const Scenes scenes;
  scenes.train("one", "--batch-size 8 --epochs 2");
  scenes.train("ranks", "--batch-size 4 --ranks 2 --epochs 2");
  scenes.train("shares", "--batch-size 4 --accumulate 2 --epochs 2");
  const std::vector<double> expected = losses(scenes.path("one"));
  for (const char* run : {"ranks", "shares"}) {
    CAPTURE(run);
    const std::vector<double> ours = losses(scenes.path(run));
    REQUIRE(ours.size() == expected.size());
    for (size_t i = 0; i < ours.size(); ++i)
      CHECK(ours[i] == doctest::Approx(expected[i]).epsilon(1e-4));
  }
}

TEST_CASE("several labels: flags of the other task are refused in one line") {
  const Scenes scenes;
  const std::string out = fmt::format("--epochs 1 --out {} ", scenes.path("run"));
  check_fails(engine_cli(scenes.flags() + out + "--class-weights auto"), 2,
              "--class-weights is for one class per image; --positive-weights weighs labels");
  check_fails(engine_cli(scenes.flags() + out + "--sampler balanced"), 2,
              "--sampler balanced draws classes");
  check_fails(engine_cli(scenes.flags() + out + "--label-separator '|'"), 2,
              "--label-columns are the labels");
  const Drawn classes(2, 1);
  const std::string of_classes =
      fmt::format("train --data {} --model mnist_cnn --device cpu {}", classes.set.string(), out);
  check_fails(engine_cli(of_classes + "--positive-weights auto"), 2,
              "--positive-weights is for several labels per image");
  check_fails(engine_cli(of_classes + "--label-columns a,b"), 2, "--label-columns is for --labels");
}

TEST_CASE("several labels: folds with groups are pooled, by column, audited and told why not") {
  const Scenes scenes;
  // Without the column split, with a patient of every two images, sex and age.
  std::string text = "path,patient,sex,age,cross,ring,star,stripes,triangle\n";
  const Csv drawn = read_csv(scenes.set / "labels.csv");
  int known = 0;
  for (size_t i = 0; i < drawn.rows.size(); ++i) {
    const auto& fields = drawn.rows[i].fields;
    text += fmt::format("{},p{},{},{},{}\n", fields[0], i / 2, i % 4 < 2 ? "f" : "m", i % 20,
                        fmt::join(fields.begin() + 2, fields.end(), ","));
    known += int(std::count_if(fields.begin() + 2, fields.end(), [](auto& f) { return f != ""; }));
  }
  write_text(scenes.set / "patients.csv", text);
  const std::string labels =
      fmt::format("--labels {}/patients.csv --label-columns {} ", scenes.set.string(), kColumns);
  const std::string device = "--device cpu --threads 1 --batch-size 16 ";
  const fs::path all = scenes.path("cv");
  const Outcome trained = engine_cli(fmt::format(
      "train {}--group-column patient --folds 3 --by sex,age --model mnist_cnn --image-size 16 "
      "--cache none --epochs 2 --lr 0.01 {}--out {}",
      labels, device, all.string()));
  INFO(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(mentions(trained.out, "3 folds of 3"));
  CHECK(mentions(trained.out, "all folds together, 30 groups: 60 images, 5 labels"));

  const Csv pooled = read_csv(all / "predictions.csv");
  CHECK(pooled.rows.size() == 60);
  std::map<std::string, std::set<std::string>> folds_of;  // of each patient
  const Csv split = read_csv(all / "fold_2/split.csv");
  REQUIRE(split.column("y:star") >= 0);
  for (const CsvRow& row : split.rows)
    folds_of[row.fields[size_t(split.column("group"))]].insert(
        row.fields[size_t(split.column("fold"))]);
  CHECK(folds_of.size() == 30);
  for (const auto& [patient, folds] : folds_of) CHECK(folds.size() == 1);

  const json folds = parse_json<json>(read(all / "metrics.json"))["folds"];
  CHECK(folds["task"] == "multilabel");
  CHECK(folds["samples"] == 60);
  CHECK(folds["missing"] == 300 - known);
  CHECK(folds["intervals"]["over"] == "groups");
  CHECK(folds["intervals"]["groups"] == 30);
  double mean = 0;
  for (const json& label : folds["labels"]) {
    CHECK(std::abs(label["auc"].get<double>() - area(pooled, label["name"])) < 1e-12);
    CHECK(label["intervals"]["auc"].is_array());
    mean += label["auc"].get<double>() / 5;
  }
  CHECK(folds["auc_macro"].get<double>() == doctest::Approx(mean).epsilon(1e-12));
  mean = 0;
  for (int fold = 1; fold <= 3; ++fold) {
    const json val = parse_json<json>(read(all / fmt::format("fold_{}/metrics.json", fold)))["val"];
    const json& run = folds["runs"][size_t(fold) - 1];
    for (const char* figure : {"loss", "auc_macro", "auc_micro", "samples"})
      CHECK(run[figure] == val[figure]);
    mean += val["auc_macro"].get<double>() / 3;
    int64_t images = 0;
    for (const json& row : val["by"]["sex"]) images += row["samples"].get<int64_t>();
    CHECK(images == val["samples"]);
    CHECK(val["by"]["age"].size() == 4);  // at quartiles
  }
  CHECK(folds["mean"]["auc_macro"].get<double>() == doctest::Approx(mean).epsilon(1e-12));
  CHECK(folds["sd"]["auc_macro"].is_number());

  // By columns of the labels, as the runs count them; each fold by thresholds of the others.
  for (const char* sex : {"f", "m"}) {
    double images = 0;
    for (int fold = 1; fold <= 3; ++fold) {
      const json of = parse_json<json>(read(all / fmt::format("fold_{}/metrics.json", fold)));
      for (const json& row : of["val"]["by"]["sex"])
        if (row["value"] == sex) images += row["samples"].get<double>();
    }
    CHECK(folds["by"]["sex"][sex == std::string("m")]["samples"] == images);
  }
  CHECK(folds["by"]["age"].size() == 4);
  CHECK(folds["by"]["sex"][0]["intervals"]["over"] == "groups");
  REQUIRE(folds["cross_fitted"].size() == 3);
  double wrong = 0, answers = 0;
  for (int fold = 1; fold <= 3; ++fold) {
    const Csv said = read_csv(all / fmt::format("fold_{}/predictions.csv", fold));
    const json& decided = folds["cross_fitted"][size_t(fold) - 1];
    CHECK(decided["fold"] == fold);
    double here = 0, known_here = 0;
    for (const CsvRow& row : said.rows)
      for (const auto& [name, threshold] : decided["thresholds"].items()) {
        const std::string y = row.fields[size_t(said.column("y:" + name))];
        if (y.empty()) continue;
        const double p = std::stod(row.fields[size_t(said.column("p:" + name))]);
        ++known_here;
        here += (p >= (threshold.is_null() ? 0.5 : threshold.get<double>())) != (y == "1");
      }
    CHECK(folds["runs"][size_t(fold) - 1]["hamming_loss"].get<double>() ==
          doctest::Approx(here / known_here).epsilon(1e-12));
    wrong += here, answers += known_here;
  }
  CHECK(folds["hamming_loss"].get<double>() == doctest::Approx(wrong / answers).epsilon(1e-12));
  CHECK(mentions(trained.out, "thresholds of the other folds (youden)"));
  check_fails(engine_cli(fmt::format("folds {} --by site", all.string())), 2, "no column site");

  const Csv first = read_csv(all / "fold_1/predictions.csv");
  for (size_t label = 0; label < 5; ++label) {
    CAPTURE(label);
    double sum = 0, count = 0;
    for (const json& run : folds["runs"])
      if (const json& auc = run["labels"][label]["auc"]; !auc.is_null())
        sum += auc.get<double>(), ++count;
    CHECK(folds["mean"]["labels"][label]["auc"].get<double>() ==
          doctest::Approx(sum / count).epsilon(1e-12));
    const json& of_fold = folds["runs"][0]["labels"][label];
    CHECK(std::abs(of_fold["auc"].get<double>() - area(first, of_fold["name"])) < 1e-12);
  }

  // check-data counts the labels of the folds, as split.csv has them.
  const json checked = parse_json<json>(
      engine_cli(fmt::format("check-data --json {}--group-column patient --folds 3", labels)).out);
  std::map<std::string, int> stars;
  for (const CsvRow& row : split.rows)
    stars["fold " + row.fields[size_t(split.column("fold"))]] +=
        row.fields[size_t(split.column("y:star"))] == "1";
  for (const auto& [fold, images] : stars) CHECK(checked["splits"][fold]["star"] == images);
  CHECK(checked["missing_labels"].size() == 3);

  // The audit judges every label that is known.
  const Outcome audit =
      engine_cli(fmt::format("audit {} --device cpu --shown 6 --no-near-copies", all.string()));
  INFO(audit.err);
  REQUIRE(audit.code == 0);
  CHECK(mentions(audit.out, fmt::format("{} labels of images are judged", known)));
  const Csv doubts = read_csv(all / "audit.csv");
  CHECK(fmt::format("{}", fmt::join(doubts.header, ",")) ==
        "path,label,given,p_given,score,rank,issue,fold");
  CHECK(doubts.rows.size() == size_t(known));
  CHECK(fs::exists(all / "audit.png"));

  // eval by columns of the same file: the figures of the run.
  const fs::path run = all / "fold_1", best = run / "weights/best.safetensors";
  const std::string weights = fmt::format("{}--weights {} ", device, best.string());
  const Outcome eval = engine_cli(fmt::format(
      "eval {}{}--group-column patient --folds 3 --fold 1 --by sex --json", weights, labels));
  INFO(eval.err);
  REQUIRE(eval.code == 0);
  const json val = parse_json<json>(read(run / "metrics.json"))["val"];
  CHECK(parse_json<json>(eval.out)["by"]["sex"][1]["labels"] == val["by"]["sex"][1]["labels"]);

  // Views are averaged; a label that is not there cannot be watched.
  const std::string image = drawn.rows[0].fields[0];
  const std::string predict = fmt::format("predict {}{}/{} ", weights, scenes.set.string(), image);
  check_fails(
      engine_cli(scenes.flags() + "--watch dot:recall --epochs 1 --out " + scenes.path("dot")), 2,
      "--watch dot:recall: no label \"dot\"; there are cross, ring, star, ");
  const Outcome views = engine_cli(predict + "--tta flips --csv");
  CHECK(views.code == 0);
}

TEST_CASE("several labels: check-data counts them, and a stratified split is written and read") {
  const Scenes scenes;
  const std::string labels =
      fmt::format("--labels {}/labels.csv --label-columns {}", scenes.set.string(), kColumns);
  const Outcome checked = engine_cli("check-data --json " + labels);
  INFO(checked.err);
  CHECK(checked.code == 0);
  const json report = parse_json<json>(checked.out);
  CHECK(report["images"] == 60);
  CHECK(report["missing_labels"]["train"].get<int>() > 20);
  CHECK(report["missing_labels"]["val"] == 0);
  CHECK(report["splits"]["val"]["cross"].get<int>() > 4);

  // Without the column split.
  std::string text;
  const Csv csv = read_csv(scenes.set / "labels.csv");
  for (const CsvRow& row : csv.rows) {
    text += row.fields[0] + ',';
    std::string names;
    for (size_t c = 2; c < row.fields.size(); ++c)
      if (row.fields[c] == "1") names += (names.empty() ? "" : ";") + csv.header[c];
    text += names + '\n';
  }
  write_text(scenes.set / "lists.csv", "path,label\n" + text);
  const Outcome trained = engine_cli(fmt::format(
      "train --labels {}/lists.csv --label-separator ';' --split 0.7/0.15/0.15 --stratify "
      "--model mnist_cnn --image-size 12 --device cpu --threads 1 --cache none --epochs 1 --out {}",
      scenes.set.string(), scenes.path("lists")));
  INFO(trained.err);
  REQUIRE(trained.code == 0);
  const fs::path run = scenes.path("lists");
  CHECK(parse_json<json>(read(run / "metrics.json")).contains("test"));
  CHECK(read(run / "split.csv").starts_with("path,split,y:cross,y:ring,y:star,y:stripes,"));
  const Outcome eval = engine_cli(
      fmt::format("eval --data {} --split-file {}/split.csv --part test --device cpu --threads 1 "
                  "--weights {}/weights/best.safetensors --out {}",
                  scenes.set.string(), run.string(), run.string(), scenes.path("again")));
  INFO(eval.err);
  CHECK(eval.code == 0);
  CHECK(read(fs::path(scenes.path("again")) / "predictions.csv") ==
        read(run / "test_predictions.csv"));
}

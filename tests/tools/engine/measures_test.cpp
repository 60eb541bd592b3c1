// What a run is judged by, from the flags to the files: --watch, --by, --threshold-rule,
// --calibrated.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"
#include "tools/score/decisions.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// Labels of the drawn images with sex, age and a patient for every two of a part and class; the
// second half of the validation images tests.
std::string labels_of(const Drawn& drawn) {
  std::string text = "path,label,split,sex,age,patient\n";
  for (const std::string& name : class_folders(drawn.set / "train"))
    for (const char* part : {"train", "val"}) {
      const auto images = list_images(drawn.set / part / name);
      for (size_t i = 0; i < images.size(); ++i) {
        const bool test = part[0] == 'v' && i >= images.size() / 2;
        text += fmt::format("{},{},{},{},{},{}{}{}\n", images[i], name, test ? "test" : part,
                            i % 2 ? "f" : "m", 20 + i, name, test ? "test" : part, i / 2);
      }
    }
  return text;
}

json score_of(const fs::path& run, const char* part) {
  return parse_json<json>(read(run / "metrics.json")).at(part);
}

}  // namespace

TEST_CASE("what validation decides is stored with the weights and applied to the test part") {
  const Drawn drawn(6, 8);
  const fs::path run = drawn.path("run"), labels = drawn.path("labels.csv");
  write_text(labels, labels_of(drawn));
  const std::string data = fmt::format(
      "--labels {} --group-column patient --device cpu --threads 1 --batch-size 20 "
      "--cache none --no-duplicate-check ",
      labels.string());
  const std::string train = fmt::format(
      "train {} --model mnist_cnn --image-size 12 --lr 0.003 --by sex,age --threshold-rule "
      "sensitivity@0.9 --reject-accuracy 0.5 ",
      data);
  const Outcome trained =
      engine_cli(fmt::format("{} --epochs 6 --watch auc --out {}", train, run.string()));
  INFO(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(mentions(trained.err, ", auc 0."));
  double best = 0;
  for (const json& epoch : events(run, "epoch")) {
    CHECK(epoch["watch"] == "auc");
    CHECK(epoch["watched"] == epoch["auc_macro"]);
    best = std::max(best, epoch["watched"].get<double>());
  }
  const json val = score_of(run, "val"), test = score_of(run, "test");
  CHECK(val["auc_macro"].get<double>() == doctest::Approx(best).epsilon(1e-6));
  CHECK(val["intervals"]["over"] == "groups");
  CHECK(test["intervals"]["groups"] == 20);  // ten classes, four images each, two of a patient
  CHECK(val["thresholds"]["rule"] == "sensitivity@0.9");
  CHECK(test["by"]["sex"].size() == 2);
  CHECK(test["by"]["sex"][0]["samples"] == 20);
  CHECK(test["by"]["age"].size() == 4);
  for (const json& c : val["classes"]) {
    const std::string name = c["name"];
    CHECK(val["thresholds"]["classes"][name]["sensitivity"] >= 0.9);
    CHECK(test["thresholds"]["classes"][name]["threshold"] == c["threshold"]);
  }
  CHECK(read(run / "predictions.csv")
            .starts_with("path,label,prediction,p_prediction,p_label,loss,"
                         "group,p:"));
  CHECK(read(run / "test_pr.csv").starts_with("class,threshold,precision,recall\n"));
  REQUIRE(val.contains("reject_threshold"));
  const json &answered = val["reject_threshold"], &at_test = test["reject_threshold"];
  CHECK(answered["validation_accuracy"] == 0.5);
  CHECK(answered["accuracy"] >= 0.5);
  CHECK(answered["coverage"] > 0);
  CHECK(at_test["threshold"] == answered["threshold"]);
  CHECK(val.contains("temperature") == val.contains("calibrated"));
  CHECK(test.contains("temperature") == val.contains("temperature"));

  // eval applies the same to the same images.
  const std::string eval = fmt::format(
      "eval {} --weights {}/weights/best.safetensors --part test --json ", data, run.string());
  const json again = parse_json<json>(engine_cli(eval + "--by sex,age").out);
  for (const char* member : {"thresholds", "by", "intervals", "brier", "reject_threshold"})
    CHECK(again[member] == test[member]);
  store_decisions(run / "weights/best.safetensors", {.temperature = 2});
  const json scaled = parse_json<json>(engine_cli(eval).out),
             calibrated = parse_json<json>(engine_cli(eval + "--calibrated").out);
  CHECK(scaled["loss"] == test["loss"]);
  CHECK(scaled["calibrated"]["loss"] != test["loss"]);
  CHECK(calibrated["loss"].get<double>() ==
        doctest::Approx(scaled["calibrated"]["loss"].get<double>()).epsilon(1e-9));
  CHECK(calibrated["top1"] == test["top1"]);
  check_fails(engine_cli(eval + "--by site"), 2, "has no column site; there are");
  check_fails(engine_cli(fmt::format("eval {} --weights {}/weights/last.safetensors --calibrated",
                                     data, run.string())),
              2, "holds no temperature");

  // A run that goes on may watch something else, and says what that does.
  const Outcome resumed =
      engine_cli(fmt::format("train --resume {} --epochs 7 --watch sensitivity@0.5", run.string()));
  INFO(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(mentions(resumed.err,
                 "watch: \"auc\" until now, \"sensitivity@0.5\" from here on: the next epoch "
                 "counts as the best so far"));
  CHECK(mentions(resumed.err, "best: epoch 7, "));
  CHECK(events(run, "epoch").back()["watch"] == "sensitivity@0.5");

  const std::string other = fmt::format("{} --out {} --watch ", train, drawn.path("other"));
  check_fails(engine_cli(other + "hexagon:recall"), 2, "no class \"hexagon\"; there are ");
  check_fails(engine_cli(other + "sensitivity@1"), 2, "no specificity above 0 and below 1");
  check_fails(engine_cli(other + "accuracy"), 2, "it is top1, loss, auc, ap, f1, balanced");
}

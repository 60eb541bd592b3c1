#include "tools/score/score.h"

#include <fstream>
#include <sstream>

#include "tests/json.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;

namespace {

std::string read(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

// Two classes, one name with a comma. Three right, one wrong, and one that could not be read.
struct Fixture {
  TemporaryFolder folder;
  Dataset data{.classes = {"cat", "dog, \"big\""},
               .samples = {{"a.jpg", 0}, {"b,c.jpg", 1}, {"d.jpg", 0}, {"e.jpg", 1}, {"f.jpg", 1}}};
  EvaluationResult result{{2, 0, 0, 2, 0, 1, -1, 3, 0, 0}, {1, 1, 1, 1, 0}};
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "an evaluation's files have a row per image that was read") {
  write_score(folder.path() / "new", result, data);
  const auto file = [&](const char* name) { return read(folder.path() / "new" / name); };
  CHECK(
      file("predictions.csv") ==
      "path,label,prediction,p_prediction,p_label,loss,p:cat,\"p:dog, \"\"big\"\"\"\n"
      "a.jpg,cat,cat,0.880797078,0.880797078,0.126928011,0.880797078,0.119202922\n"
      "\"b,c.jpg\",\"dog, \"\"big\"\"\",\"dog, \"\"big\"\"\",0.880797078,0.880797078,0.126928011,"
      "0.119202922,0.880797078\n"
      "d.jpg,cat,\"dog, \"\"big\"\"\",0.731058579,0.268941421,1.31326169,0.268941421,0.731058579\n"
      "e.jpg,\"dog, \"\"big\"\"\",\"dog, \"\"big\"\"\",0.98201379,0.98201379,0.0181499279,"
      "0.01798621,0.98201379\n");
  CHECK(file("confusion_matrix.csv") ==
        "label,cat,\"dog, \"\"big\"\"\"\n"
        "cat,1,1\n"
        "\"dog, \"\"big\"\"\",0,2\n");
  CHECK(file("roc.csv") ==
        "class,threshold,false_positive_rate,true_positive_rate\n"
        "cat,inf,0,0\ncat,0.880797,0,0.5\ncat,0.268941,0,1\ncat,0.0179862,1,1\n"
        "\"dog, \"\"big\"\"\",inf,0,0\n\"dog, \"\"big\"\"\",0.982014,0,0.5\n"
        "\"dog, \"\"big\"\"\",0.880797,0,1\n\"dog, \"\"big\"\"\",0.119203,1,1\n"
        "(micro),inf,0,0\n(micro),0.982014,0,0.25\n(micro),0.880797,0,0.75\n"
        "(micro),0.731059,0.25,0.75\n(micro),0.268941,0.25,1\n(micro),0.119203,0.75,1\n(micro),0."
        "0179862,1,1\n");
  const json m = parse_json<json>(file("metrics.json"))["val"];
  CHECK(m["samples"] == 4);
  CHECK(m["top1"] == 0.75);
  CHECK(m["classes"][1]["name"] == "dog, \"big\"");
  CHECK(m["classes"][0]["recall"] == 0.5);
  CHECK(m["classes"][0]["auc"] == 1);
  CHECK(m["calibration"].size() == kCalibrationBins);
  CHECK(m["intervals"]["resamples"] == 1000);
  CHECK(m["intervals"]["top1"][0] < 0.75);
}

TEST_CASE_FIXTURE(Fixture, "the parts of a run stand side by side") {
  write_score(folder.path(), result, data, {.part = "val", .resamples = 0});
  result.logits[4] = 5;  // now right
  write_score(folder.path(), result, data,
              {.part = "test", .prefix = "test_", .resamples = 0, .probabilities = true});
  const json all = parse_json<json>(read(folder.path() / "metrics.json"));
  CHECK(all["val"]["top1"] == 0.75);
  CHECK(all["test"]["top1"] == 1);
  CHECK_FALSE(all["test"].contains("intervals"));
  CHECK(read(folder.path() / "test_predictions.csv")
            .starts_with(
                "path,label,prediction,p_prediction,p_label,loss,p:cat,\"p:dog, \"\"big\"\"\"\n"
                "a.jpg,cat,cat,0.880797078,0.880797078,0.126928011,0.880797078,0.119202922\n"));
  CHECK(read(folder.path() / "predictions.csv") != read(folder.path() / "test_predictions.csv"));
}

TEST_CASE_FIXTURE(Fixture, "the table has totals with intervals and a line per class") {
  const Score scored = score(result, data, {.resamples = 100});
  const std::string text = table(scored, data.classes);
  CHECK(text.starts_with("4 images, 95% intervals in brackets\n"));
  CHECK(text.find("  top-1                 0.7500  [") != std::string::npos);
  CHECK(text.find("  cat                    2    1.0000  0.5000      1.0000  0.6667  1.0000\n") !=
        std::string::npos);
  CHECK(table(score(result, data, {.resamples = 0}), data.classes).starts_with("4 images\n"));
}

// Cross-validation and the audit of labels, as scripts see them.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "io/files/csv.h"
#include "io/images/decode.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const std::string kTrain =
    "train --model mnist_cnn --image-size 12 --batch-size 16 --device cpu --threads 1 --epochs 2 ";

json metrics(const fs::path& folder) {
  return parse_json<json>(read(folder / "metrics.json"));
}

}  // namespace

TEST_CASE("a start that comes to nothing leaves the flags of the one before") {
  const Drawn drawn(4, 2);
  const std::string data = fmt::format("--data {} ", drawn.set.string());
  const std::string run = drawn.path("run"), folds = drawn.path("folds");
  REQUIRE(engine_cli(kTrain + data + "--max-steps 2 --out " + run).code == 0);
  check_fails(engine_cli("train --resume " + run + " --image-size 16"), 4, "the model has");
  check_fails(engine_cli("train --resume " + run + " --folds 3"), 2, "has none");
  check_fails(engine_cli("train --resume " + run + " --weights other"), 2, "random values");
  CHECK_FALSE(fs::exists(run + "/args-2.json"));
  CHECK_FALSE(fs::exists(run + "/command-2.txt"));
  CHECK_FALSE(fs::exists(run + "/fold_1"));
  REQUIRE(engine_cli("train --resume " + run + " --lr-find --lr-find-steps 10").code == 0);
  REQUIRE(engine_cli("train --resume " + run + " --max-steps 3").code == 0);  // trains again
  CHECK(last_state(run) != "");
  CHECK(events(run, "checkpoint").back()["step"] == 3);

  REQUIRE(engine_cli(kTrain + data + "--folds 2 --epochs 1 --out " + folds).code == 0);
  check_fails(engine_cli("train --resume " + folds + " --folds 3"), 2, "has 2");
  CHECK(engine_cli("train --resume " + folds + " --image-size 16").code == 4);
  CHECK_FALSE(fs::exists(folds + "/args-2.json"));
  const Outcome again = engine_cli("train --resume " + folds);
  CHECK(again.code == 0);
  CHECK(mentions(again.err, "run directory " + folds));
}

TEST_CASE("--folds without --fold: a run for each fold, pooled; stopped, it goes on") {
  const Drawn drawn(4, 2);
  const fs::path all = drawn.path("cv");
  const std::string data = fmt::format("--data {} --folds 3 ", drawn.set.string());
  const std::string train = kTrain + data;
  const Outcome stopped =
      engine_cli(train + "--out " + all.string(), "ENGINE_TEST_FAULT=rank=0,step=4,kind=throw");
  CHECK(stopped.code != 0);  // in the second epoch of the first fold
  CHECK(mentions(stopped.err, "fold 1 of 3"));
  CHECK(mentions(stopped.err, "the folds go on with: engine train --resume"));
  const Outcome outcome = engine_cli("train --resume " + all.string());
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  CHECK(mentions(outcome.err, "fold 3 of 3"));
  CHECK(mentions(outcome.out, "3 folds of 3"));
  CHECK(mentions(outcome.out, "60 images"));

  // The same folds one by one.
  const fs::path one = drawn.path("one");
  REQUIRE(engine_cli(train + "--fold 2 --out " + one.string()).code == 0);
  for (const char* file : {"split.csv", "predictions.csv"})
    CHECK(read(one / file) == read(all / "fold_2" / file));

  // Each image once, and figures of the pooled files that are those of the folds.
  const json pooled = metrics(all)["folds"];
  CHECK(pooled["samples"] == 60);
  REQUIRE(pooled["runs"].size() == 3);
  double right = 0, mean = 0;
  for (int fold = 1; fold <= 3; ++fold) {
    const json val = metrics(all / fmt::format("fold_{}", fold))["val"];
    const json& run = pooled["runs"][size_t(fold) - 1];
    CHECK(run["fold"] == fold);
    CHECK(run["top1"] == val["top1"]);
    CHECK(run["loss"].get<double>() == doctest::Approx(val["loss"].get<double>()).epsilon(1e-6));
    CHECK(run["auc_macro"].get<double>() ==
          doctest::Approx(val["auc_macro"].get<double>()).epsilon(1e-9));
    right += val["top1"].get<double>() * val["samples"].get<double>();
    mean += val["top1"].get<double>() / 3;
  }
  CHECK(pooled["top1"].get<double>() == doctest::Approx(right / 60));
  CHECK(pooled["mean"]["top1"].get<double>() == doctest::Approx(mean));
  CHECK(pooled["sd"]["top1"].is_number());
  std::set<std::string> paths;
  for (const CsvRow& row : read_csv(all / "predictions.csv").rows)
    CHECK(paths.insert(row.fields[0]).second);
  CHECK(paths.size() == 60);

  // Decisions of the other folds: thresholds, and how often these images are called right.
  REQUIRE(pooled["cross_fitted"].size() == 3);
  for (const json& c : pooled["classes"]) {
    const std::string name = c["name"];
    double found = 0, images = 0;
    bool known = true;
    for (int fold = 1; fold <= 3; ++fold) {
      const Csv said = read_csv(all / fmt::format("fold_{}/predictions.csv", fold));
      const json& threshold = pooled["cross_fitted"][size_t(fold) - 1]["thresholds"][name];
      known = known && threshold.is_number();
      for (const CsvRow& row : said.rows) {
        if (row.fields[1] != name || !known) continue;
        ++images;
        found += std::stod(row.fields[size_t(said.column("p:" + name))]) >=
                 threshold.get<double>() - 1e-7;
      }
    }
    const json& sensitivity = pooled["thresholds"]["classes"][name]["sensitivity"];
    REQUIRE(sensitivity.is_number() == known);
    if (known) CHECK(sensitivity.get<double>() == doctest::Approx(found / images));
  }

  // By a column of any CSV that names the images.
  std::string text = "path,odd\n";
  std::map<std::string, double> hits, count;
  int row_number = 0;
  for (int fold = 1; fold <= 3; ++fold)
    for (const CsvRow& row : read_csv(all / fmt::format("fold_{}/predictions.csv", fold)).rows) {
      const std::string odd = ++row_number % 2 ? "yes" : "no";
      text += fmt::format("{},{}\n", row.fields[0], odd);
      ++count[odd];
      hits[odd] += row.fields[1] == row.fields[2];
    }
  write_text(drawn.path("odd.csv"), text);
  const std::string folds = fmt::format("folds {} --json --by odd ", all.string());
  const Outcome by_odd = engine_cli(folds + "--labels " + drawn.path("odd.csv"));
  INFO(by_odd.err);
  REQUIRE(by_odd.code == 0);
  const json by = parse_json<json>(by_odd.out)["by"]["odd"];
  REQUIRE(by.size() == 2);
  for (const json& row : by) {
    const std::string value = row["value"];
    CHECK(row["samples"] == count[value]);
    CHECK(row["top1"].get<double>() == doctest::Approx(hits[value] / count[value]).epsilon(1e-12));
  }
  check_fails(engine_cli(folds), 2, "was not trained with --labels; name a CSV with --labels");
  write_text(drawn.path("odd.csv"), "path,odd\nelsewhere.png,yes\n");
  check_fails(engine_cli(folds + "--labels " + drawn.path("odd.csv")), 3,
              "names none of the 60 images");

  // Another fold is another run.
  check_fails(engine_cli(fmt::format("train --resume {} --fold 3", one.string())), 2,
              "--fold 3: the run to resume has 2");
  // A fold that lacks is named, and so is one that is no fold.
  check_fails(engine_cli(fmt::format("folds {0}/fold_1 {0}/fold_3", all.string())), 3,
              "of 3 folds 1 have no run here: 2");
  check_fails(engine_cli(fmt::format("folds {} --out {}", all.string(), one.string())), 2,
              "the folder of a training run");

  // The audit has every image, the most doubtful first.
  const Outcome audit = engine_cli(fmt::format("audit {} --device cpu --shown 6", all.string()));
  INFO(audit.err);
  REQUIRE(audit.code == 0);
  const Csv doubts = read_csv(all / "audit.csv");
  CHECK(doubts.header == std::vector<std::string>{"path", "label", "suggested", "p_label",
                                                  "p_suggested", "score", "rank", "issue", "fold"});
  REQUIRE(doubts.rows.size() == 60);
  for (size_t i = 1; i < doubts.rows.size(); ++i)
    CHECK(std::stod(doubts.rows[i - 1].fields[5]) <= std::stod(doubts.rows[i].fields[5]));
  CHECK(read_image(all / "audit.png", 3).width > 160);
  CHECK(fs::exists(all / "near_copies.csv"));
}

TEST_CASE("check-data shows the classes of the folds, and agrees with train") {
  const Drawn drawn(4, 2);
  const Outcome table = engine_cli(fmt::format("check-data {} --folds 3", drawn.set.string()));
  CHECK(table.code == 0);
  CHECK(mentions(table.out, "fold 1    fold 2    fold 3"));
  CHECK(mentions(table.out, "total"));
  const Outcome outcome =
      engine_cli(fmt::format("check-data {} --folds 3 --json", drawn.set.string()));
  const json splits = parse_json<json>(outcome.out)["splits"];
  for (const char* fold : {"fold 1", "fold 2", "fold 3"})
    for (const auto& [name, images] : splits[fold].items()) CHECK(images == 2);
  const Outcome too_many = engine_cli(fmt::format("check-data {} --folds 7", drawn.set.string()));
  CHECK(too_many.code == 8);
  CHECK(mentions(too_many.err, "has images of 6 only"));
  check_fails(engine_cli(kTrain +
                         fmt::format("--dry-run --data {} --folds 7 --fold 1", drawn.set.string())),
              3, "has images of 6 only");
}

TEST_CASE("an audit of one run judges its validation images, and says so; copies are found") {
  const Drawn drawn(6, 3);
  const fs::path run = drawn.path("run"), copy = drawn.image("val", "cross", 0);
  fs::copy_file(copy, copy.parent_path().parent_path() / "ring" / "copy.png");
  REQUIRE(engine_cli(kTrain + fmt::format("--data {} --out {}", drawn.set.string(), run.string()))
              .code == 0);
  const Outcome audit = engine_cli(fmt::format("audit {} --device cpu", run.string()));
  INFO(audit.err);
  REQUIRE(audit.code == 0);
  CHECK(mentions(audit.err, "one run: only its 31 validation images are judged"));
  CHECK(read_csv(run / "audit.csv").rows.size() == 31);
  const Csv pairs = read_csv(run / "near_copies.csv");
  REQUIRE(pairs.rows.size() >= 1);
  CHECK(std::stod(pairs.rows[0].fields[0]) == doctest::Approx(1));
  CHECK(mentions(audit.out, "with two labels"));
  const Outcome bytes = engine_cli(
      fmt::format("audit {} --no-near-copies --out {}", run.string(), drawn.path("bytes")));
  CHECK(bytes.code == 0);
  CHECK(mentions(bytes.out, "1 pairs of copies, 1 of them with two labels"));
}

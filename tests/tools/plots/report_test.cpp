// The report's page, and what is sent to trackers, of runs that make_run.py imagines.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <regex>

#include "tests/io/images/pillow.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/plots/python.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const std::string kPlots = ENGINE_SOURCE_DIR "/tools/plots/";

// Why a report cannot be made here; empty if it can.
std::string lacking() {
  for (const char* module : {"matplotlib", "PIL", "numpy"})
    if (!has_python_module(module)) return fmt::format("the report needs {}", module);
  return "";
}

struct Imagined {
  TemporaryFolder folder;
  fs::path run = folder.path() / "run", log = folder.path() / "log";

  explicit Imagined(const std::string& flags) {
    const int status = python(fmt::format("'{}/tests/tools/plots/make_run.py' '{}' {}",
                                          ENGINE_SOURCE_DIR, run.string(), flags),
                              log);
    INFO(read(log));
    REQUIRE(status == 0);
  }
  std::string report() const {
    const int status =
        python(fmt::format("-W error '{}report.py' '{}'", kPlots, run.string()), log);
    INFO(read(log));
    REQUIRE(status == 0);
    return read(run / "report.html");
  }
  json score(const char* part) const { return parse_json<json>(read(run / "metrics.json"))[part]; }
};

// Seven classes, and their page, which is drawn once for all cases.
struct Seven {
  Imagined imagined{"--classes 7"};
  std::string html = imagined.report();
};
const Seven& seven_classes() {
  static const Seven seven;
  return seven;
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

// Nothing is fetched or run when the page is opened, whatever names are in the data.
void check_self_contained(const std::string& html) {
  for (const char* outside : {"<script", "<link", "url(http", "src=\"http", "@import", "<type"})
    CHECK_MESSAGE(html.find(outside) == std::string::npos, outside);
  CHECK(count(html, "src=\"") == count(html, "src=\"data:"));
}

}  // namespace

TEST_CASE("the report begins with sentences that its numbers make") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  const auto& [imagined, html] = seven_classes();
  const json score = imagined.score("test");
  check_self_contained(html);
  CHECK(html.find("Findings</h2>") < html.find("Measures</h2>"));
  CHECK(mentions(html, "2 of 7 classes are never predicted: bcc and bkl."));
  for (const json& c : score["classes"])
    if (c["name"] == "df")
      CHECK(mentions(html, fmt::format("Class df: {} images, recall {:.2f} [{:.2f}–{:.2f}]",
                                       c["support"].get<int>(), c["recall"].get<double>(),
                                       c["intervals"]["recall"][0].get<double>(),
                                       c["intervals"]["recall"][1].get<double>())));
  CHECK(mentions(html, fmt::format("The calibration error is {:.2f}: the model is too sure",
                                   score["calibration_error"].get<double>())));
  CHECK(mentions(html, "Intervals are drawn over 450 groups, not over images."));
  CHECK(mentions(html, "1 image is in several parts (duplicates.csv)"));
  CHECK(mentions(html, "Accuracy differs by sex beyond its intervals: female 0.70 [0.66–0.73]"));
  CHECK(mentions(html, "vasc has 243 training images, 81 times as many as akiec with 3"));
  CHECK(mentions(html, "The best epoch is the last one, 14"));
  CHECK(mentions(html, "After epoch 6 the validation loss rises"));
  CHECK(mentions(html, "The learning rate fell 2 times, from 0.001 to 1e-05."));
  CHECK(mentions(html, "46.5 Wh for training"));  // 14 epochs of 28.5 s at 420 W
  CHECK(mentions(html, "errors are made with a confidence of 0.95 or more"));
}

TEST_CASE("the page is for screens, phones, the dark and paper, and shows images from elsewhere") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  const auto& [imagined, html] = seven_classes();
  for (const char* there : {"prefers-color-scheme: dark", "@media print", "max-width: 600px",
                            "name=\"viewport\"", "var(--blue)"})
    CHECK_MESSAGE(mentions(html, there), there);
  // In a plot no colour is fixed: each is one of the style sheet's.
  const std::string plots = html.substr(html.find("<svg"));
  CHECK_FALSE(std::regex_search(plots, std::regex("(fill|stroke): #[0-9a-fA-F]{6}")));
  // Paths begin where the run was started, which is not where this test is.
  CHECK(count(html, "<img") == 24 + 5);  // largest losses; five classes are recognised
  CHECK_FALSE(mentions(html.substr(0, html.find("<style>")), " is not there"));
  CHECK(count(html, " is not there</div>") == 0);
  const fs::path elsewhere = imagined.folder.path() / "elsewhere";
  fs::create_directory(elsewhere);
  fs::rename(imagined.run / "images", elsewhere / "images");
  // Drawn again are the images, without most of the plots.
  for (const char* plotted : {"results", "test_roc", "test_pr", "test_confusion_matrix"})
    REQUIRE(fs::remove(imagined.run / fmt::format("{}.csv", plotted)));
  CHECK(count(imagined.report(), " is not there</div>") == 29);
  const int status = python(fmt::format("'{}report.py' '{}' --root '{}'", kPlots,
                                        imagined.run.string(), elsewhere.string()),
                            imagined.log);
  CHECK(status == 0);
  CHECK(count(read(imagined.run / "report.html"), "<img") == 29);
}

TEST_CASE("thirty-five classes are legible, and a class without images has no figures") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  Imagined imagined("--classes 35 --samples 3000");
  const std::string html = imagined.report();
  check_self_contained(html);
  CHECK(mentions(html, "2 classes have no test image, so nothing is known of them"));
  CHECK(mentions(html, "no images: nothing is known"));
  CHECK(mentions(html, "<td>condition 4, &lt;type B&gt;</td><td>0</td><td>–</td><td>–</td>"));
  CHECK(mentions(html, "The most frequent confusions."));
  CHECK(html.find("At every threshold") == std::string::npos);  // 35 curves would collide
  CHECK(mentions(html, "AUC (dashed: mean; dotted: chance)"));
  CHECK(mentions(html, "bootstrap of 300 resamples over groups"));
}

TEST_CASE("reports of evaluations, of pooled folds and of several labels") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  for (const std::string part : {"eval", "folds"}) {
    Imagined imagined("--classes 4 --samples 200 --part " + part);
    const std::string html = imagined.report();
    check_self_contained(html);
    CHECK(mentions(html, part == "eval" ? "200 evaluation images" : "200 out-of-fold images"));
    CHECK(html.find("Training</h2>") == std::string::npos);
    CHECK(mentions(html, part == "eval" ? "scaling with T = 2.2 makes" : "T = 1.4 to 1.6 makes"));
    CHECK(mentions(html, part == "eval" ? "chosen on validation images: the largest"
                                        : "chosen for each fold on the images of the others"));
  }
  Imagined pooled("--classes 3 --labels --samples 200 --part folds");
  const std::string folds = pooled.report();
  CHECK(mentions(folds,
                 "With a confidence of 0.83 to 0.89 or more, at which 95% of the decisions "
                 "were right on the other folds, 80% of these labels are answered"));
  CHECK(mentions(folds, "<td>0.35 to 0.45</td>"));
  Imagined labels("--classes 5 --labels --samples 400");
  const std::string html = labels.report();
  check_self_contained(html);
  CHECK(mentions(html, "400 test images with 5 labels each: mean AUC 0."));
  CHECK(mentions(html, "Labels that are not known of some images are left out"));
  CHECK(mentions(html, "Labels, test</h2>"));
  CHECK(mentions(html, "By age</h3>"));
  CHECK(mentions(html, "Can the probabilities be trusted? Test</h2>"));
  CHECK(mentions(html, "scaling with T = 1.4 makes it"));
  CHECK(mentions(html, "at which 95% of the decisions were right in validation"));
  CHECK(mentions(html, "Mean AUC differs by age beyond its intervals: child 0.7"));
  CHECK(mentions(html, "<td>condition 1, &lt;type A&gt;</td><td>child</td><td>0</td>"));
}

TEST_CASE("on paper a report has four pages at most") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  const TemporaryFolder there;
  if (python("-c 'import shutil; exit(shutil.which(\"chromium\") is None)'", there.path() / "log"))
    return note_skipped("no chromium to print with");
  for (const char* flags : {"--classes 7", "--classes 35 --samples 4200"}) {
    CAPTURE(flags);
    Imagined imagined(flags);
    imagined.report();
    const fs::path pdf = imagined.folder.path() / "report.pdf";
    const std::string print = fmt::format(
        "chromium --headless=new --no-sandbox --disable-gpu --user-data-dir='{0}/profile' "
        "--no-pdf-header-footer --print-to-pdf='{1}' 'file://{2}/report.html' > '{0}/log' 2>&1",
        imagined.folder.path().string(), pdf.string(), imagined.run.string());
    CHECK(std::system(print.c_str()) == 0);
    const std::string text = read(pdf);
    const std::regex page("/Type\\s*/Page[^s]");
    const auto pages =
        std::distance(std::sregex_iterator(text.begin(), text.end(), page), std::sregex_iterator());
    CHECK(pages >= 2);
    CHECK(pages <= 4);
  }
}

TEST_CASE("digits follow the sample, and sentences their numbers") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  const TemporaryFolder folder;
  const fs::path log = folder.path() / "log";
  const std::string script =
      "import sys; sys.path.insert(0, sys.argv[1]); from wording import *; "
      "print([digits_of(n) for n in (0, 8, 25, 26, 44, 2500, 2501, 245000)], "
      "with_interval(0.409, [0.27, 0.56], 44), share(None, 9), share(-1e-9, 44), "
      "percent(0.999), percent(1), listed(list('abcdefg'), 3), listed(['a, b', 'c']), "
      "duration(7200), energy(3600 * 2500), sep='|')";
  REQUIRE(python(fmt::format("-c \"{}\" '{}'", script, kPlots), log) == 0);
  CHECK(read(log) ==
        "[2, 1, 1, 2, 2, 2, 3, 3]|0.41 [0.27–0.56]|–|0.00|more than 99%|100%|"
        "a, b and 5 more|a, b and c|2 h|2.5 kWh\n");
}

TEST_CASE("MLflow has a run's flags, epochs, totals and files") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  if (!has_python_module("mlflow")) return note_skipped("no mlflow to send a run to");
  Imagined imagined("--classes 4 --samples 100");
  const std::string store = fmt::format("sqlite:///{}/mlflow.db", imagined.folder.path().string());
  const int status =
      python(fmt::format("'{}to_mlflow.py' '{}' --tracking '{}' --artifacts '{}/files'", kPlots,
                         imagined.run.string(), store, imagined.folder.path().string()),
             imagined.log);
  INFO(read(imagined.log));
  REQUIRE(status == 0);
  const std::string ask =
      "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); c = mlflow.MlflowClient(); "
      "r = mlflow.search_runs(experiment_names=['engine'], output_format='list')[0]; "
      "print('|', r.data.params['model'], len(c.get_metric_history(r.info.run_id, 'val/loss')), "
      "'test/macro/f1' in r.data.metrics, "
      "'metrics.json' in [a.path for a in c.list_artifacts(r.info.run_id)], '|')";
  REQUIRE(python(fmt::format("-c \"{}\" '{}'", ask, store), imagined.log) == 0);
  CHECK(mentions(read(imagined.log), "| efficientnet_b3 14 True True |"));
}

TEST_CASE("Weights & Biases has a run offline") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  if (!has_python_module("wandb")) return note_skipped("no wandb to send a run to");
  Imagined imagined("--classes 4 --samples 100");
  const int status = python(fmt::format("'{}to_wandb.py' '{}' --offline --dir '{}'", kPlots,
                                        imagined.run.string(), imagined.folder.path().string()),
                            imagined.log);
  const std::string said = read(imagined.log);
  INFO(said);
  REQUIRE(status == 0);
  bool written = false;
  for (const auto& entry : fs::recursive_directory_iterator(imagined.folder.path() / "wandb"))
    written |= entry.path().extension() == ".wandb" && entry.file_size() > 1000;
  CHECK(written);
}

TEST_CASE("a tracker that is not there is named, with the command that installs it") {
  if (const std::string why = lacking(); !why.empty()) return note_skipped(why);
  Imagined imagined("--classes 4 --samples 100");
  for (const char* tracker : {"mlflow", "wandb"}) {
    if (has_python_module(tracker)) {
      note_skipped(fmt::format("{} is installed", tracker));
      continue;
    }
    CHECK(python(fmt::format("'{}to_{}.py' '{}'", kPlots, tracker, imagined.run.string()),
                 imagined.log) != 0);
    CHECK(mentions(read(imagined.log), fmt::format("-m pip install {}", tracker)));
  }
}

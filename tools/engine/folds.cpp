// engine folds: the runs of a cross-validation as one evaluation.
#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/score/fold_runs.h"
#include "tools/score/score.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct FoldsOptions {
  std::vector<std::string> runs;
  fs::path out;
  ScoreOptions score{.part = "folds"};
  bool force = false, json = false;

  void visit(auto& v) {
    v("RUNS", runs,
      "the folders of the K runs of engine train --folds K, or the folder with fold_1, fold_2, … "
      "in it",
      kRequired);
    v("--out DIR", out,
      "write metrics.json, predictions.csv, confusion_matrix.csv and roc.csv there");
    v("--force", force, "pool also runs of other models, and fewer than K");
    v("--resamples N", score.resamples, "of the bootstrap for confidence intervals; 0: none",
      Within{0, 1000000});
    v("--seed N", score.seed, "of the bootstrap");
    v("--json", json, "one JSON object to stdout");
  }
};

// What is told of each fold, and of all by mean and standard deviation.
struct Figure {
  const char *name, *title;
  std::function<std::optional<double>(const Metrics&)> of;
};

const Figure kFigures[] = {
    {"loss", "loss", [](const Metrics& m) { return m.loss; }},
    {"top1", "top-1", [](const Metrics& m) { return m.top1; }},
    {"balanced_accuracy", "balanced", [](const Metrics& m) { return m.balanced_accuracy; }},
    {"f1_macro", "macro F1", [](const Metrics& m) { return m.macro.f1; }},
    {"auc_macro", "macro AUC", [](const Metrics& m) { return m.auc_macro; }},
    {"calibration_error", "calibration", [](const Metrics& m) { return m.calibration_error; }}};

struct FoldSpread {
  std::optional<double> mean, deviation;  // the deviation of a sample: divided by n − 1
};

// Of the folds where the figure is defined.
FoldSpread spread_of(const Figure& figure, std::span<const Metrics> folds) {
  double sum = 0, squares = 0, count = 0;
  for (const Metrics& m : folds)
    if (const auto value = figure.of(m)) sum += *value, ++count;
  if (count == 0) return {};
  for (const Metrics& m : folds)
    if (const auto value = figure.of(m)) squares += std::pow(*value - sum / count, 2);
  if (count < 2) return {sum / count, std::nullopt};
  return {sum / count, std::sqrt(squares / (count - 1))};
}

size_t groups_of(const Dataset& data) {
  std::set<std::string_view> groups;
  for (const Sample& sample : data.samples)
    if (!sample.group.empty()) groups.insert(sample.group);
  return groups.size();
}

std::string text_of(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

std::string fold_table(const PooledRuns& pooled, std::span<const Metrics> folds) {
  std::string text = fmt::format("  {:<6} {:>7}", "fold", "images");
  for (const Figure& figure : kFigures) text += fmt::format(" {:>11}", figure.title);
  text += '\n';
  const auto row = [&](const std::string& name, const std::string& images, const auto& value) {
    text += fmt::format("  {:<6} {:>7}", name, images);
    for (const Figure& figure : kFigures) text += fmt::format(" {:>11}", text_of(value(figure)));
    text += '\n';
  };
  for (size_t i = 0; i < folds.size(); ++i)
    row(std::to_string(pooled.runs[i].fold), std::to_string(folds[i].samples),
        [&](const Figure& figure) { return figure.of(folds[i]); });
  row("mean", "", [&](const Figure& figure) { return spread_of(figure, folds).mean; });
  row("sd", "", [&](const Figure& figure) { return spread_of(figure, folds).deviation; });
  return text;
}

Json number(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

// The members `runs`, `mean` and `sd`.
void add_folds(Json& json, const PooledRuns& pooled, std::span<const Metrics> folds) {
  for (size_t i = 0; i < folds.size(); ++i) {
    const FoldRun& run = pooled.runs[i];
    Json one = {{"fold", run.fold},
                {"run", utf8_from_bytes(fs::absolute(run.folder).lexically_normal().string())},
                {"images", run.images},
                {"samples", folds[i].samples},
                {"groups", groups_of(run.data)}};
    for (const Figure& figure : kFigures) one[figure.name] = number(figure.of(folds[i]));
    json["runs"].push_back(std::move(one));
  }
  for (const Figure& figure : kFigures) {
    const FoldSpread spread = spread_of(figure, folds);
    json["mean"][figure.name] = number(spread.mean);
    json["sd"][figure.name] = number(spread.deviation);
  }
}

void add_to_file(const fs::path& file, const Json& folds) {
  Json all = parse_json<Json>(as_text(read_file(file)), Failure::data, file.string());
  for (const auto& [name, value] : folds.items()) all["folds"][name] = value;
  write_file_atomically(file, print_json(all, 2) + '\n');
}

}  // namespace

int folds(const Command& command) {
  const auto options = parse_options<FoldsOptions>(command);
  if (!options) return 0;
  const FoldsOptions& o = *options;
  require(o.out.empty() || !fs::exists(o.out / "results.csv"), Failure::usage,
          "--out {}: the folder of a training run, whose scores would be lost", o.out.string());
  std::vector<FoldRun> runs;
  for (const fs::path& run : expand_runs(o.runs)) runs.push_back(read_fold_run(run));
  const PooledRuns pooled = pool_runs(std::move(runs), o.force);
  for (const std::string& remark : pooled.remarks) say(paint(remark, Colour::yellow, stderr));

  std::vector<Metrics> each;
  for (const FoldRun& run : pooled.runs)
    each.push_back(score(run.result, run.data, {.resamples = 0}).metrics);
  const Score scored = o.out.empty() ? score(pooled.result, pooled.data, o.score)
                                     : write_score(o.out, pooled.result, pooled.data, o.score);
  Json of_folds;
  add_folds(of_folds, pooled, each);
  if (!o.out.empty()) {
    add_to_file(o.out / "metrics.json", of_folds);
    say(fmt::format("{}: metrics.json, predictions.csv, confusion_matrix.csv, roc.csv",
                    o.out.string()));
  }
  if (o.json) {
    Json json = to_json(scored, pooled.data.classes);
    json.update(of_folds);
    print_to_stdout(print_json(json) + '\n');
    return 0;
  }
  const size_t groups = groups_of(pooled.data);
  print_to_stdout(fmt::format("{} folds of {}\n{}all folds together{}: {}", each.size(),
                              pooled.runs[0].folds, fold_table(pooled, each),
                              groups > 0 ? fmt::format(", {} groups", groups) : "",
                              table(scored, pooled.data.classes)));
  return 0;
}

}  // namespace engine

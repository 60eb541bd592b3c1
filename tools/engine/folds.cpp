// engine folds: the runs of a cross-validation as one evaluation.
#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/score/decisions.h"
#include "tools/score/fold_runs.h"
#include "tools/score/label_score.h"
#include "tools/score/score.h"
#include "tools/score/text_table.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct FoldsOptions {
  std::vector<std::string> runs;
  fs::path out;
  fs::path labels;
  std::string by;
  ScoreOptions score{.part = "folds"};
  bool force = false, json = false;

  void visit(auto& v) {
    v("RUNS", runs,
      "the folders of the K runs of engine train --folds K, or the folder with fold_1, fold_2, … "
      "in it",
      kRequired);
    v("--out DIR", out,
      "write metrics.json, predictions.csv, roc.csv, pr.csv and, of classes, confusion_matrix.csv "
      "there");
    v("--by COLUMN,...", by,
      "a table for each of these columns of --labels: how its values fare, over all folds");
    v("--labels FILE", labels, "CSV with the columns of --by and path (default: that of the runs)");
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
};
constexpr Figure kOfClasses[] = {
    {"loss", "loss"},         {"top1", "top-1"},          {"balanced_accuracy", "balanced"},
    {"f1_macro", "macro F1"}, {"auc_macro", "macro AUC"}, {"calibration_error", "calibration"}};
constexpr Figure kOfLabels[] = {{"loss", "loss"},
                                {"subset_accuracy", "all right"},
                                {"hamming_loss", "Hamming"},
                                {"auc_macro", "macro AUC"},
                                {"auc_micro", "micro AUC"},
                                {"average_precision_macro", "macro AP"}};

std::span<const Figure> figures_of(Task task) {
  if (task == Task::labels) return kOfLabels;
  return kOfClasses;
}

// Those of one fold, in the same order.
struct FoldFigures {
  int64_t samples = 0;
  std::vector<std::optional<double>> values;
  std::vector<LabelMetrics> labels = {};  // where images have several
};

FoldFigures figures_of(const Metrics& m) {
  return {m.samples,
          {m.loss, m.top1, m.balanced_accuracy, m.macro.f1, m.auc_macro, m.calibration_error}};
}

FoldFigures figures_of(const MultilabelMetrics& m) {
  return {m.samples,
          {m.loss, m.subset_accuracy, m.hamming_loss, m.macro.auc, m.micro.auc,
           m.macro.average_precision},
          m.labels};
}

struct FoldSpread {
  std::optional<double> mean, deviation;  // the deviation of a sample: divided by n − 1
};

// Of the folds where the figure is defined; of(fold) is the figure.
FoldSpread spread_of(std::span<const FoldFigures> folds, const auto& of) {
  double sum = 0, squares = 0, count = 0;
  for (const FoldFigures& fold : folds)
    if (const std::optional<double> value = of(fold)) sum += *value, ++count;
  if (count == 0) return {};
  for (const FoldFigures& fold : folds)
    if (const std::optional<double> value = of(fold)) squares += std::pow(*value - sum / count, 2);
  if (count < 2) return {sum / count, std::nullopt};
  return {sum / count, std::sqrt(squares / (count - 1))};
}

FoldSpread spread_of(size_t figure, std::span<const FoldFigures> folds) {
  return spread_of(folds, [&](const FoldFigures& fold) { return fold.values[figure]; });
}

// What is told of each label: areas, which K models do not confound.
struct LabelFigure {
  const char *name, *title;
  std::optional<double> LabelMetrics::*value;
};
constexpr LabelFigure kOfEachLabel[] = {
    {"auc", "AUC", &LabelMetrics::auc},
    {"average_precision", "AP", &LabelMetrics::average_precision}};

FoldSpread spread_of(const LabelFigure& figure, size_t label, std::span<const FoldFigures> folds) {
  return spread_of(folds,
                   [&](const FoldFigures& fold) { return fold.labels[label].*figure.value; });
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

std::string fold_table(const PooledRuns& pooled, std::span<const FoldFigures> folds) {
  const std::span<const Figure> figures = figures_of(pooled.data.task);
  std::string text = fmt::format("  {:<6} {:>7}", "fold", "images");
  for (const Figure& figure : figures) text += fmt::format(" {:>11}", figure.title);
  text += '\n';
  const auto row = [&](const std::string& name, const std::string& images, const auto& value) {
    text += fmt::format("  {:<6} {:>7}", name, images);
    for (size_t f = 0; f < figures.size(); ++f) text += fmt::format(" {:>11}", text_of(value(f)));
    text += '\n';
  };
  for (size_t i = 0; i < folds.size(); ++i)
    row(std::to_string(pooled.runs[i].fold), std::to_string(folds[i].samples),
        [&](size_t figure) { return folds[i].values[figure]; });
  row("mean", "", [&](size_t figure) { return spread_of(figure, folds).mean; });
  row("sd", "", [&](size_t figure) { return spread_of(figure, folds).deviation; });
  return text;
}

// Mean and standard deviation of each label over the folds; empty where images have one class.
std::string label_table(const PooledRuns& pooled, std::span<const FoldFigures> folds) {
  if (pooled.data.task == Task::classes) return "";
  std::vector<std::string> head = {"label, by fold"};
  for (const LabelFigure& figure : kOfEachLabel)
    head.insert(head.end(), {fmt::format("mean {}", figure.title), "sd"});
  Table table(std::move(head));
  for (size_t label = 0; label < pooled.data.classes.size(); ++label) {
    std::vector<std::string> row = {pooled.data.classes[label]};
    for (const LabelFigure& figure : kOfEachLabel) {
      const FoldSpread spread = spread_of(figure, label, folds);
      row.insert(row.end(), {text_of(spread.mean), text_of(spread.deviation)});
    }
    table.add(std::move(row));
  }
  return table.text();
}

Json number(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

// A member for each label, with its figures.
Json labels_json(const PooledRuns& pooled, const auto& value) {
  Json json = Json::array();
  for (size_t label = 0; label < pooled.data.classes.size(); ++label) {
    Json one = {{"name", utf8_from_bytes(pooled.data.classes[label])}};
    for (const LabelFigure& figure : kOfEachLabel) one[figure.name] = number(value(figure, label));
    json.push_back(std::move(one));
  }
  return json;
}

// The members `runs`, `mean` and `sd`.
void add_folds(Json& json, const PooledRuns& pooled, std::span<const FoldFigures> folds) {
  const std::span<const Figure> figures = figures_of(pooled.data.task);
  for (size_t i = 0; i < folds.size(); ++i) {
    const FoldRun& run = pooled.runs[i];
    Json one = {{"fold", run.fold},
                {"run", utf8_from_bytes(fs::absolute(run.folder).lexically_normal().string())},
                {"images", run.images},
                {"samples", folds[i].samples},
                {"groups", groups_of(run.data)}};
    for (size_t f = 0; f < figures.size(); ++f) one[figures[f].name] = number(folds[i].values[f]);
    if (!folds[i].labels.empty())
      one["labels"] = labels_json(pooled, [&](const LabelFigure& figure, size_t label) {
        return folds[i].labels[label].*figure.value;
      });
    json["runs"].push_back(std::move(one));
  }
  for (size_t f = 0; f < figures.size(); ++f) {
    const FoldSpread spread = spread_of(f, folds);
    json["mean"][figures[f].name] = number(spread.mean);
    json["sd"][figures[f].name] = number(spread.deviation);
  }
  if (pooled.data.task == Task::classes) return;
  json["mean"]["labels"] = labels_json(pooled, [&](const LabelFigure& figure, size_t label) {
    return spread_of(figure, label, folds).mean;
  });
  json["sd"]["labels"] = labels_json(pooled, [&](const LabelFigure& figure, size_t label) {
    return spread_of(figure, label, folds).deviation;
  });
}

void add_to_file(const fs::path& file, const Json& folds) {
  Json all = parse_json<Json>(as_text(read_file(file)), Failure::data, file.string());
  for (const auto& [name, value] : folds.items()) all["folds"][name] = value;
  write_file_atomically(file, print_json(all, 2) + '\n');
}

// What is said of all images together: text and JSON.
struct PooledScore {
  std::string table;
  Json json;
};

// The columns of --by, of the file that the runs were trained with unless another one is given.
std::vector<Column> columns_of(const FoldsOptions& o, const PooledRuns& pooled) {
  if (o.by.empty()) return {};
  const FoldRun& run = pooled.runs[0];
  ImageSetOptions of_runs;
  const auto text = [&](const char* flag) {
    const std::string value = run.text_flag(flag);
    return value.empty() ? std::optional<std::string>() : value;
  };
  of_runs.labels = o.labels.empty() ? fs::path(run.text_flag("labels")) : o.labels;
  require(!of_runs.labels.empty(), Failure::usage,
          "--by {}: {} was not trained with --labels; name a CSV with --labels", o.by,
          run.folder.string());
  of_runs.image_root = run.root();
  of_runs.path_column = text("path_column");
  of_runs.image_suffix = text("image_suffix");
  return read_columns(of_runs, o.by, pooled.data);
}

// Each image is scored by what the images of the other folds decide, in its fold and among all.
PooledScore score_pooled(const FoldsOptions& o, const PooledRuns& pooled,
                         std::vector<FoldFigures>& each) {
  const std::vector<std::string>& classes = pooled.data.classes;
  ScoreOptions options = o.score;
  options.by = columns_of(o, pooled);
  options.cross_fitted = cross_fit(pooled.result, pooled.data, rules_of(pooled.runs[0]));
  const ScoreOptions of_fold{.resamples = 0, .cross_fitted = options.cross_fitted};
  if (pooled.data.task == Task::classes) {
    for (const FoldRun& run : pooled.runs)
      each.push_back(figures_of(score(run.result, run.data, of_fold).metrics));
    const Score scored = o.out.empty() ? score(pooled.result, pooled.data, options)
                                       : write_score(o.out, pooled.result, pooled.data, options);
    return {table(scored, classes), to_json(scored, classes)};
  }
  for (const FoldRun& run : pooled.runs)
    each.push_back(figures_of(score_labels(run.result, run.data, of_fold).metrics));
  const LabelScore scored = o.out.empty()
                                ? score_labels(pooled.result, pooled.data, options)
                                : write_label_score(o.out, pooled.result, pooled.data, options);
  return {table(scored, classes), to_json(scored, classes)};
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

  std::vector<FoldFigures> each;
  PooledScore told = score_pooled(o, pooled, each);
  Json of_folds;
  add_folds(of_folds, pooled, each);
  if (!o.out.empty()) {
    add_to_file(o.out / "metrics.json", of_folds);
    say(fmt::format("{}: metrics.json, predictions.csv, roc.csv, pr.csv{}", o.out.string(),
                    pooled.data.task == Task::classes ? ", confusion_matrix.csv" : ""));
  }
  if (o.json) {
    told.json.update(of_folds);
    print_to_stdout(print_json(told.json) + '\n');
    return 0;
  }
  const size_t groups = groups_of(pooled.data);
  print_to_stdout(fmt::format("{} folds of {}\n{}{}all folds together{}: {}", each.size(),
                              pooled.runs[0].folds, fold_table(pooled, each),
                              label_table(pooled, each),
                              groups > 0 ? fmt::format(", {} groups", groups) : "", told.table));
  return 0;
}

}  // namespace engine

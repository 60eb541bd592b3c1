#include "tools/score/fold_runs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/error.h"
#include "engine/measures/labels.h"
#include "io/data/presence.h"
#include "io/files/bytes.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/files/utf8.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string text_of(const fs::path& file) {
  return std::string(as_text(read_file(file)));
}

std::vector<std::string> lines_of(const fs::path& file) {
  const std::string text = text_of(file);
  std::vector<std::string> lines;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, end - begin));
  return lines;
}

std::map<std::string, std::string> flags_of(const fs::path& run) {
  fs::path file = run / "args.json";
  for (int start = 2; fs::exists(run / fmt::format("args-{}.json", start)); ++start)
    file = run / fmt::format("args-{}.json", start);
  std::map<std::string, std::string> flags;
  if (!fs::exists(file)) return flags;
  const Json json = json_or_null<Json>(text_of(file));
  require(json.is_object(), Failure::data, "{}: no JSON object", file.string());
  for (const auto& [key, value] : json.items()) flags[key] = print_json(value);
  return flags;
}

double probability(const std::string& text, const fs::path& file, int line) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size() && value >= 0 && value <= 1.001,
          Failure::data, "{}, line {}: \"{}\" is no probability", file.string(), line, text);
  return value;
}

// Whether a path ends in the other one.
bool ends_in(const std::string& path, const std::string& end) {
  return path.ends_with(end) &&
         (path.size() == end.size() || path[path.size() - end.size() - 1] == '/');
}

// The column of each class, whose name stands behind the prefix.
std::vector<size_t> columns_of(const Csv& csv, const std::string& prefix, const FoldRun& run,
                               const fs::path& file) {
  std::vector<size_t> columns;
  for (const std::string& name : run.data.classes) {
    const int at = csv.column(prefix + name);
    require(
        at >= 0, Failure::data, "{}: no column {}{}{}", file.string(), prefix, name,
        run.data.task == Task::labels
            ? ""
            : "; engine eval --probabilities writes such columns for more than 100 classes, and "
              "so does every training of fewer");
    columns.push_back(static_cast<size_t>(at));
  }
  return columns;
}

// What a row says of each label.
std::vector<Presence> read_presence(const Csv& csv, const CsvRow& row,
                                    std::span<const size_t> columns, const fs::path& file) {
  std::vector<Presence> labels;
  for (const size_t column : columns)
    labels.push_back(parse_presence(row.fields[column], [&] {
      return fmt::format("{}, line {}, column {}", file.string(), row.line, csv.header[column]);
    }));
  return labels;
}

// A row of split.csv.
struct Planned {
  std::string path, group;
  int fold = 0;
};

// The rows of the part val, in their order, and in `run` the whole split.
std::vector<Planned> read_split(const fs::path& file, FoldRun& run) {
  const Csv csv = read_csv(file);
  const int path = csv.column("path"), label = csv.column("label"), split = csv.column("split"),
            fold = csv.column("fold"), group = csv.column("group");
  const bool of_labels = run.data.task == Task::labels;
  require(path >= 0 && (label >= 0 || of_labels) && split >= 0, Failure::data,
          "{}, line 1: the header needs the columns path, {}split", file.string(),
          of_labels ? "" : "label, ");
  const std::vector<size_t> presence =
      of_labels ? columns_of(csv, kLabelColumn, run, file) : std::vector<size_t>();
  std::vector<Planned> planned;
  std::set<int> validating;
  for (const CsvRow& row : csv.rows) {
    const auto field = [&](int at) {
      return at < 0 ? std::string() : row.fields[static_cast<size_t>(at)];
    };
    int number = 0;
    if (const std::string text = field(fold); !text.empty()) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
      require(error == std::errc() && end == text.data() + text.size() && number > 0, Failure::data,
              "{}, line {}: \"{}\" is no fold", file.string(), row.line, text);
    }
    run.folds = std::max(run.folds, number);
    const std::string shown =
        of_labels ? label_text(run.data, {.labels = read_presence(csv, row, presence, file)})
                  : field(label);
    run.split[field(path)] = fmt::format("{}, fold {}", shown, number);
    if (field(split) != "val") continue;
    planned.push_back({field(path), field(group), number});
    validating.insert(number);
  }
  require(run.folds == 0 || (validating.size() == 1 && *validating.begin() > 0), Failure::data,
          "{}: the validation images are of the folds {}, not of one", file.string(),
          fmt::join(validating, ", "));
  if (run.folds > 0) run.fold = *validating.begin();
  return planned;
}

double log_of(double p) {
  return std::log(std::max(p, std::numeric_limits<double>::min()));
}

// Adds a row of predictions.csv for each image. A column of the label is what images of one class
// have.
void read_predictions(const fs::path& file, FoldRun& run) {
  const Csv csv = read_csv(file);
  const int path = csv.column("path"), label = csv.column("label");
  const bool of_labels = label < 0;
  require(path >= 0, Failure::data, "{}, line 1: the header needs the column path", file.string());
  if (of_labels) run.data.task = Task::labels;
  const std::vector<size_t> presence = of_labels ? columns_of(csv, kLabelColumn, run, file)
                                                 : std::vector<size_t>(),
                            columns = columns_of(csv, "p:", run, file);
  for (const CsvRow& row : csv.rows) {
    Sample sample{.path = row.fields[static_cast<size_t>(path)]};
    if (of_labels) {
      sample.labels = read_presence(csv, row, presence, file);
    } else {
      const std::string& name = row.fields[static_cast<size_t>(label)];
      const auto at = std::ranges::find(run.data.classes, name);
      require(at != run.data.classes.end(), Failure::data, "{}, line {}: \"{}\" is no class of {}",
              file.string(), row.line, name, (run.folder / "classes.txt").string());
      sample.label = static_cast<int>(at - run.data.classes.begin());
    }
    run.data.samples.push_back(std::move(sample));
    for (const size_t column : columns) {
      const double p = probability(row.fields[column], file, row.line);
      run.result.logits.push_back(static_cast<float>(of_labels ? logit_of(p) : log_of(p)));
    }
    run.result.counted.push_back(1);
  }
  require(!csv.rows.empty(), Failure::data, "{}: no predictions in it", file.string());
}

// Gives the samples what split.csv says of them. Both files have the images in one order.
void join(const std::vector<Planned>& planned, const fs::path& root, FoldRun& run) {
  auto next = planned.begin();
  for (Sample& sample : run.data.samples) {
    next = std::find_if(next, planned.end(),
                        [&](const Planned& row) { return ends_in(sample.path, row.path); });
    require(next != planned.end(), Failure::data,
            "{}: {} is not among the validation images of split.csv, or not in their order",
            (run.folder / "predictions.csv").string(), sample.path);
    sample.path = (root / next->path).string();
    sample.group = next->group;
    sample.fold = next->fold;
    ++next;
  }
}

// ---------------------------------------------------------------- several runs

void check_same_split(const FoldRun& first, const FoldRun& run) {
  const auto differ = [&](const std::string& path, const std::string& here,
                          const std::string& there) {
    fail(Failure::data, "{} is not of the cross-validation of {}: {} is {} there, {} here",
         run.folder.string(), first.folder.string(), path, there, here);
  };
  for (const auto& [path, what] : run.split) {
    const auto at = first.split.find(path);
    if (at == first.split.end() || at->second != what)
      differ(path, what, at == first.split.end() ? "missing" : at->second);
  }
  for (const auto& [path, what] : first.split)
    if (!run.split.contains(path)) differ(path, "missing", what);
}

// The flags that runs of one cross-validation may have different without a word.
bool of_one_run(const std::string& key) {
  static const std::set<std::string> kKeys = {
      "fold", "out",   "resume", "config",  "color",   "split_file", "folds",    "device",
      "gpus", "ranks", "launch", "threads", "workers", "cache",      "cache_dir"};
  return kKeys.contains(key);
}

void compare_flags(const FoldRun& first, const FoldRun& run, std::vector<std::string>& remarks) {
  for (const auto& [key, value] : run.flags) {
    const auto at = first.flags.find(key);
    if (of_one_run(key) || at == first.flags.end() || at->second == value) continue;
    remarks.push_back(fmt::format("{}: {} is {}, in {} it is {}", run.folder.string(), key, value,
                                  first.folder.string(), at->second));
  }
}

const char* outputs_of(const FoldRun& run) {
  return run.data.task == Task::labels ? "several labels" : "one class";
}

std::vector<int> lacking(std::span<const FoldRun> runs) {
  std::vector<int> folds;
  for (int fold = 1; fold <= runs[0].folds; ++fold)
    if (std::ranges::find(runs, fold, &FoldRun::fold) == runs.end()) folds.push_back(fold);
  return folds;
}

}  // namespace

std::string FoldRun::text_flag(const char* key) const {
  const auto at = flags.find(key);
  if (at == flags.end()) return "";
  const Json value = json_or_null<Json>(at->second);
  return value.is_string() ? bytes_from_utf8(value.get_ref<const std::string&>()) : "";
}

fs::path FoldRun::root() const {
  const std::string labels = text_flag("labels"), image_root = text_flag("image_root");
  if (!image_root.empty()) return image_root;
  return labels.empty() ? fs::path(text_flag("data")) : fs::path(labels).parent_path();
}

DecisionRules rules_of(const FoldRun& run) {
  DecisionRules rules;
  if (const std::string rule = run.text_flag("threshold_rule"); !rule.empty())
    rules.thresholds = parse_threshold_rule(rule);
  if (const auto at = run.flags.find("reject_accuracy"); at != run.flags.end())
    if (const Json accuracy = json_or_null<Json>(at->second); accuracy.is_number())
      rules.reject_accuracy = accuracy.get<double>();
  return rules;
}

FoldRun read_fold_run(const fs::path& folder) {
  FoldRun run{.folder = folder};
  require(fs::is_directory(folder), Failure::usage, "{}: no such folder of a run", folder.string());
  require(fs::exists(folder / "predictions.csv"), Failure::data,
          "{}: no predictions.csv: the run is not finished, or the folder is not one of a run",
          folder.string());
  run.data.classes = lines_of(folder / "classes.txt");
  run.flags = flags_of(folder);
  read_predictions(folder / "predictions.csv", run);
  run.images = run.data.samples.size();
  if (!fs::exists(folder / "split.csv")) return run;
  const std::vector<Planned> planned = read_split(folder / "split.csv", run);
  run.images = planned.size();
  join(planned, run.root(), run);
  return run;
}

std::vector<fs::path> expand_runs(std::span<const std::string> runs) {
  std::vector<fs::path> folders;
  for (const fs::path run : runs) {
    std::error_code error;
    const auto fold = [&](int i) { return run / fmt::format("fold_{}", i); };
    if (!fs::exists(fold(1), error)) {
      folders.push_back(run);
      continue;
    }
    for (int i = 1; fs::exists(fold(i), error); ++i) folders.push_back(fold(i));
  }
  return folders;
}

PooledRuns pool_runs(std::vector<FoldRun> runs, bool force) {
  require(!runs.empty(), Failure::usage, "no run is given");
  std::ranges::stable_sort(runs, {}, &FoldRun::fold);
  PooledRuns pooled;
  const FoldRun& first = runs.front();
  for (size_t i = 0; i < runs.size(); ++i) {
    const FoldRun& run = runs[i];
    require(run.folds > 0, Failure::data,
            "{}: no run of a fold: its split.csv has no column fold; engine train --folds K makes "
            "such runs",
            run.folder.string());
    require(run.data.task == first.data.task, Failure::data, "{} has {} per image, {} has {}",
            run.folder.string(), outputs_of(run), first.folder.string(), outputs_of(first));
    require(run.data.classes == first.data.classes, Failure::data,
            "{} has the classes {}, {} has {}", run.folder.string(),
            fmt::join(run.data.classes, " "), first.folder.string(),
            fmt::join(first.data.classes, " "));
    check_same_split(first, run);
    if (i > 0)
      require(run.fold != runs[i - 1].fold, Failure::data, "{} and {} are both fold {}",
              runs[i - 1].folder.string(), run.folder.string(), run.fold);
    const std::string model = run.text_flag("model"), theirs = first.text_flag("model");
    require(force || model == theirs, Failure::data,
            "{} trains {}, {} trains {}; --force pools them all the same", run.folder.string(),
            model, first.folder.string(), theirs);
    compare_flags(first, run, pooled.remarks);
    if (const size_t without = run.images - run.data.samples.size(); without > 0)
      pooled.remarks.push_back(fmt::format("fold {}: of {} images {} have no prediction", run.fold,
                                           run.images, without));
  }
  const std::vector<int> missing = lacking(runs);
  require(force || missing.empty(), Failure::data,
          "of {} folds {} have no run here: {}; --force pools the others", first.folds,
          missing.size(), fmt::join(missing, ", "));
  if (!missing.empty())
    pooled.remarks.push_back(fmt::format("of {} folds {} are not in it: {}", first.folds,
                                         missing.size(), fmt::join(missing, ", ")));
  pooled.data.task = first.data.task;
  pooled.data.classes = first.data.classes;
  for (const FoldRun& run : runs) {
    const auto add = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    add(pooled.data.samples, run.data.samples);
    add(pooled.result.logits, run.result.logits);
    add(pooled.result.counted, run.result.counted);
  }
  pooled.runs = std::move(runs);
  return pooled;
}

}  // namespace engine

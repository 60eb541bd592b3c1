// The predictions that training runs have left, read back: those of one run, and those of the K
// runs of a cross-validation as one evaluation, in which each image is judged by the model that has
// not trained with it.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "tools/score/decisions.h"
#include "tools/score/evaluation.h"

namespace engine {

// What a run has said of its validation images.
struct FoldRun {
  std::filesystem::path folder;
  int fold = 0, folds = 0;  // 0: the run has no folds
  // The images with predictions, with the groups of split.csv, and paths that hold from here.
  Dataset data;
  // log p of each class, whose softmax is p again; of several labels log p − log(1 − p), which are
  // the run's logits. A p of 0 counts as the smallest number above 0, a p of 1 of a label as the
  // largest below 1.
  EvaluationResult result;
  size_t images = 0;  // to validate: there are no predictions of those that could not be read
  std::map<std::string, std::string> flags;  // of its latest start, by key: the values as JSON
  std::map<std::string, std::string> split;  // path below the data: "label, fold", of every image

  // A flag that is a text; empty if it is not there.
  std::string text_flag(const char* key) const;
  // Where relative paths of split.csv begin, as ImageSetOptions::root().
  std::filesystem::path root() const;
};

// How the run decided: its flags --threshold-rule and --reject-accuracy, or their defaults.
DecisionRules rules_of(const FoldRun& run);

// Reads predictions.csv with its columns p:CLASS and, of several labels, y:LABEL, then classes.txt,
// split.csv where there is one, and the flags. Error(data) names what the folder lacks: a run that
// is not finished has no predictions.
FoldRun read_fold_run(const std::filesystem::path& run);

// The folders with runs in them that a command line means: `fold_1`, `fold_2` and so on of a folder
// that has them, else the folder.
std::vector<std::filesystem::path> expand_runs(std::span<const std::string> runs);

// All predictions of the runs, which are put in the order of their folds. Each image that was to
// be validated is in exactly one of them.
struct PooledRuns {
  std::vector<FoldRun> runs;
  Dataset data;
  EvaluationResult result;
  std::vector<std::string> remarks;  // what differs between them and what is missing
};

// Throws Error(data) unless these are the runs of one cross-validation: the same classes or labels,
// images and folds, each fold once. Other models and lacking folds are errors too, unless `force`
// is given.
PooledRuns pool_runs(std::vector<FoldRun> runs, bool force);

}  // namespace engine

// Which images a verb uses, the class of each and the parts that they make: the flags, and what is
// read by them. Where images wait for their epochs is data_options.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "io/data/labels.h"
#include "io/data/loader.h"
#include "io/data/split.h"
#include "tools/cli/options.h"

namespace engine {

inline constexpr Choice<OnBadImage> kBadImagePolicies[] = {{"error", OnBadImage::error},
                                                           {"skip", OnBadImage::skip}};
inline constexpr Choice<ClassOrder> kClassOrders[] = {{"bytes", ClassOrder::bytes},
                                                      {"natural", ClassOrder::natural}};
inline constexpr Choice<LabelKind> kLabelKinds[] = {{"names", LabelKind::names},
                                                    {"indices", LabelKind::indices}};
enum class OnLeak { say, error };
inline constexpr Choice<OnLeak> kLeakPolicies[] = {{"say", OnLeak::say}, {"error", OnLeak::error}};

struct ImageSetOptions {
  std::filesystem::path data, labels, split_file;
  std::optional<std::string> path_column, label_column, group_column, group_pattern, image_suffix;
  std::optional<std::string> label_columns, label_separator;
  std::optional<std::filesystem::path> image_root;
  std::optional<LabelKind> label_kind;
  std::string split;
  std::optional<int> folds, fold;
  bool stratify = false, no_duplicate_check = false;
  uint64_t split_seed = 0;
  ClassOrder class_order = ClassOrder::bytes;
  OnBadImage on_bad_image = OnBadImage::error;
  OnLeak on_leak = OnLeak::say;

  // All but --data.
  void visit_image_sets(auto& v) {
    v("--labels FILE", labels,
      "CSV: path (relative to the file), label and perhaps split; other columns are passed over");
    v("--path-column NAME", path_column, "of --labels (default: path)");
    v("--label-column NAME", label_column, "of --labels (default: label)");
    v("--label-kind KIND", label_kind,
      "names, or indices: positions among the classes (default: indices where labels are 0, 1, … "
      "N-1 and nothing else)",
      kLabelKinds);
    v("--label-columns A,B,...", label_columns,
      "of --labels: images have several labels, and these columns say of each 1, 0 or nothing, "
      "where it is not known");
    v("--label-separator TEXT", label_separator,
      "of --labels: images have several labels, whose names stand in the label column with TEXT "
      "between them");
    v("--image-root DIR", image_root, "where paths of --labels begin (default: the file's folder)");
    v("--image-suffix TEXT", image_suffix, "behind each path of --labels, like .jpg");
    v("--group-column NAME", group_column,
      "of --labels: a patient, a lesion; images of one group stay in one part");
    v("--group-pattern REGEX", group_pattern,
      "the group is what REGEX (ECMAScript) finds in the file's name, or in its path below the "
      "folder if it has a '/': the first parentheses, else all of it");
    v("--split A/B/C", split,
      "choose training, validation and test images at random, in shares like 0.63/0.07/0.30; "
      "copies "
      "of an image stay in one part");
    v("--stratify", stratify, "each class in those shares");
    v("--folds K", folds,
      "cross-validation: each image but those of test in one of K folds, chosen at random; classes "
      "are spread evenly, and groups and copies stay in one fold",
      Within{2, 1000});
    v("--fold I", fold, "which fold validates, from 1 to K; the others train", Within{1, 1000});
    v("--split-seed N", split_seed, "of the random choice");
    v("--split-file FILE", split_file,
      "split.csv of a former run, paths relative to --data; with --fold by its column fold");
    v("--class-order ORDER", class_order,
      "bytes: torchvision's; natural: numbers by value, case ignored, as timm's", kClassOrders);
    v("--no-duplicate-check", no_duplicate_check, "do not look for copies of images");
    v("--on-leak WHAT", on_leak,
      "images or groups that several parts share, copies with other labels: say so, or end with "
      "an error",
      kLeakPolicies, kMayChange);
    v("--on-bad-image WHAT", on_bad_image, "error: stop; skip: take another one, and name it",
      kBadImagePolicies);
  }

  bool folded() const { return folds || fold; }
  // The file that names images and labels; empty: folders do.
  std::filesystem::path label_file() const { return labels.empty() ? split_file : labels; }

  // The folder at which relative paths of images begin.
  std::filesystem::path root() const {
    return labels.empty() ? data : image_root.value_or(labels.parent_path());
  }
};

// Error(usage) for flags that contradict each other.
void check_image_sets(const ImageSetOptions& options);

// The data sets of a training run, after which people have been told of what is not used. This is
// what decides whether a training can start: check-data asks it, too. Of ROOT/train and ROOT/test
// without ROOT/val a fifth of the training images validates, chosen at random in every class.
TrainingData load_training_data(const ImageSetOptions& options);

// The images of a cross-validation, with Sample::fold from 1 to `folds`: those of train and val
// together, of a folder of classes or of labels all that are not of the part test, which stays out.
// They depend on --folds, --split-seed and the images alone, or come from --split-file.
struct FoldedData {
  int folds = 0;
  Dataset all;
  std::optional<Dataset> test = {};
  DataNotes notes = {};
};

// For --folds or a --split-file with folds; after it people have been told as by
// load_training_data().
FoldedData load_folds(const ImageSetOptions& options);

// What the run of a fold trains with.
TrainingData training_data(FoldedData data, int fold);

// What is there whether a training could use it or not; one data set for each part, or one for all.
struct LooseSet {
  std::string name;
  Dataset data;
};
std::vector<LooseSet> load_any_data(const ImageSetOptions& options);

inline constexpr Choice<Part> kPartNames[] = {
    {"train", Part::train}, {"val", Part::validation}, {"test", Part::test}};

// One part of what the same flags would train with. The images to train with stand beside it where
// they are known and may be compared (--no-duplicate-check).
struct EvaluationData {
  Dataset images;
  std::optional<Part> part = {};  // nothing: all images there are
  std::optional<Dataset> train = {};
  DataNotes notes = {};
};

// The images of `part`, by default the validation images; of folders without parts and of labels
// without the column split, all images. Labels are positions in `classes`, those of a weight file;
// if these are empty, the classes are the data's own.
EvaluationData load_evaluation_data(const ImageSetOptions& options, std::optional<Part> part,
                                    const std::vector<std::string>& classes);

// One object per place with `where`, `images` and `ignored`.
nlohmann::ordered_json to_json(const DataNotes& notes);

}  // namespace engine

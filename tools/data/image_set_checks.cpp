// What flags of image sets may stand together.
#include "tools/data/image_sets.h"

#include <utility>

#include "engine/error.h"

namespace engine {

void check_image_sets(const ImageSetOptions& o) {
  const auto given = [](const auto& value) { return !value.empty(); };
  require(given(o.data) || given(o.labels), Failure::usage,
          "--data is missing: a folder of images, or --labels FILE");
  require(
      !given(o.labels) || !given(o.data), Failure::usage,
      "--data {} and --labels are both where images come from; relative paths of --labels begin "
      "at --image-root, or beside the file",
      o.data.string());
  require(given(o.labels) + given(o.split_file) < 2, Failure::usage,
          "--labels and --split-file are both files of labels; give one");
  require(!given(o.split_file) || (given(o.data) && !given(o.split)), Failure::usage,
          "--split-file goes with --data, and without --split");
  require(given(o.split) || !o.stratify, Failure::usage, "--stratify is for --split");
  require(!given(o.split) || !o.folded(), Failure::usage,
          "--split and --folds both divide the images; give one");
  require(!o.fold || o.folds || given(o.split_file), Failure::usage,
          "--fold {} of how many? --folds K, or --split-file of a run with folds",
          o.fold.value_or(0));
  require(!o.fold || !o.folds || *o.fold <= *o.folds, Failure::usage,
          "--fold {}: there are folds 1 to {}", o.fold.value_or(0), o.folds.value_or(0));
  const std::pair<const char*, bool> of_labels[] = {
      {"--path-column", o.path_column.has_value()},
      {"--label-column", o.label_column.has_value()},
      {"--label-columns", o.label_columns.has_value()},
      {"--label-separator", o.label_separator.has_value()},
      {"--label-kind", o.label_kind.has_value()},
      {"--image-root", o.image_root.has_value()},
      {"--image-suffix", o.image_suffix.has_value()}};
  for (const auto& [flag, is_given] : of_labels)
    require(!is_given || given(o.labels), Failure::usage, "{} is for --labels", flag);
  require(!o.label_columns || (!o.label_column && !o.label_separator), Failure::usage,
          "--label-columns are the labels; --label-column and --label-separator go without it");
  require(!o.label_kind || (!o.label_columns && !o.label_separator), Failure::usage,
          "--label-kind is for one class per image");
  require(!o.label_separator || !o.label_separator->empty(), Failure::usage,
          "--label-separator: an empty text separates nothing");
  require(!o.group_column || given(o.label_file()), Failure::usage,
          "--group-column is for --labels; --group-pattern finds groups in names of files");
  require(!o.group_column || !o.group_pattern, Failure::usage,
          "--group-column and --group-pattern: one of them");
}

}  // namespace engine

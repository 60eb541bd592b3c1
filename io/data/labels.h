// Which class and which part each image has, read from a CSV file of labels.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/dataset.h"
#include "io/data/split.h"

namespace engine {

enum class LabelKind { names, indices };
std::string_view to_string(LabelKind kind);  // "class names", "class indices"

// How a file of labels is read.
struct LabelFile {
  std::filesystem::path root;  // where relative paths begin
  std::string path_column = "path", label_column = "label";
  // Images have several labels: a column of 1, 0 and nothing for each of them, or their names in
  // the label column with that separator between them. Both empty: images have one class.
  std::vector<std::string> label_columns = {};
  std::string separator = {};
  std::string group_column = {};  // empty: there are no groups
  // It is what split_csv() writes: labels are taken as they are, several labels are in the columns
  // y:NAME, there may be a column fold, and groups may be missing.
  bool own = false;
  std::string suffix = {};  // of every path, for files that name images without extension
  // Without it labels are indices if they are 0, 1, … N − 1 and nothing else.
  std::optional<LabelKind> kind = {};
  ClassOrder order = ClassOrder::bytes;
  std::span<const std::string> classes = {};  // empty: those that the file has
};

// What a file of labels says.
struct Labels {
  LabelKind kind = LabelKind::names;
  Dataset all;              // every image, in the order of the file
  std::vector<Part> parts;  // the part of each image; empty if the file has no column split
  std::vector<int> lines;   // the line of each image in the file
  // Spaces around labels that were left out, and images beside those of the file that it does not
  // name.
  std::vector<std::string> notes;
};

// Reads a CSV file with columns of paths, labels and perhaps groups and split (train; val, valid or
// validation; test); other columns are passed over. An unknown class, a value that is none, an
// image that is named twice and another split are an Error(data) with the line; files that are
// missing are one with all of their lines. Of several labels in columns, `classes` are the columns
// in their order.
Labels read_labels(const std::filesystem::path& file, const LabelFile& how);

// The data sets of labels that have parts. An Error names a class or label that no training image
// has, with the line of one that has it.
TrainingData training_data(Labels labels, const std::filesystem::path& file);

}  // namespace engine

// Which images train, which validate and which test: drawn from one data set by shares, or read from
// a CSV file of labels. A drawn split is written as such a file.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

enum class Part : uint8_t { train, validation, test };
std::string_view to_string(Part part);  // train, val, test

using Shares = std::array<double, 3>;  // of the parts; they sum to 1

// "0.63/0.07/0.30", or two of them without a test set. Failure::usage names --split.
Shares parse_shares(std::string_view text);

// `count` in whole numbers by the largest remainders, of equal ones the first part's.
std::array<int64_t, 3> split_counts(int64_t count, const Shares& shares);

// The part of each image. `stratify`: of each class in those shares, else of all together. Depends on
// nothing but the arguments: the images are shuffled with `seed` and dealt out.
std::vector<Part> sample_split(const Dataset& all, const Shares& shares, bool stratify,
                               uint64_t seed);

// The images of each part in the order they have in `all`; every part has all the classes.
std::array<Dataset, 3> by_part(Dataset all, std::span<const Part> parts);

// The same as data sets to train with. Error(data) if a class has no image to train with or none is
// left for validation.
TrainingData apply_split(Dataset all, std::span<const Part> parts);

// path,label,split, a line for each image. Paths are relative to `root` where they lie below it.
std::string split_csv(const TrainingData& data, const std::filesystem::path& root);

enum class LabelKind { names, indices };
std::string_view to_string(LabelKind kind);  // "class names", "class indices"

// A file of labels.
struct Labels {
  LabelKind kind = LabelKind::names;
  Dataset all;              // in the file's order
  std::vector<Part> parts;  // of each image; empty if the file has no column split
  std::vector<int> lines;   // in the file, of each image
};

// CSV with the columns path, label and perhaps split (train; val, valid or validation; test), others
// are left alone. Paths are relative to `root`. Where every label is a whole number they are class
// indices, else names. The classes are those that the file has, or, if given, `classes`. Error(data)
// with the line: an unknown class, a missing file, an image named twice, another split.
Labels read_labels(const std::filesystem::path& file, const std::filesystem::path& root,
                   ClassOrder order = ClassOrder::bytes, std::span<const std::string> classes = {});

// Labels with parts as data sets; an Error names the line of a class that has no training image.
TrainingData training_data(Labels labels, const std::filesystem::path& file);

}  // namespace engine

// Which images train, which validate and which test: chosen at random by shares of one data set, or
// read from a CSV file of labels. A random split is written as such a file.
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

using Shares = std::array<double, 3>;  // one for each part; they sum to 1

// Reads "0.63/0.07/0.30", or two shares for a split without a test set. An Error(usage) names
// --split.
Shares parse_shares(std::string_view text);

// Splits `count` into whole numbers by the largest remainders; of equal remainders the first
// counts.
std::array<int64_t, 3> split_counts(int64_t count, const Shares& shares);

// The part of each image: the images are shuffled with `seed` and dealt out. With `stratify` each
// class has those shares, else all images together.
std::vector<Part> sample_split(const Dataset& all, const Shares& shares, bool stratify,
                               uint64_t seed);

// The images of each part, in the order that they have in `all`. Every part has all the classes.
std::array<Dataset, 3> by_part(Dataset all, std::span<const Part> parts);

// The same as data sets to train with. Error(data) if a class has no image to train with, or no
// image is left for validation.
TrainingData apply_split(Dataset all, std::span<const Part> parts);

// CSV with the columns path, label and split, a line for each image. Paths below `root` are
// relative to it.
std::string split_csv(const TrainingData& data, const std::filesystem::path& root);

enum class LabelKind { names, indices };
std::string_view to_string(LabelKind kind);  // "class names", "class indices"

// What a file of labels says.
struct Labels {
  LabelKind kind = LabelKind::names;
  Dataset all;              // every image, in the order of the file
  std::vector<Part> parts;  // the part of each image; empty if the file has no column split
  std::vector<int> lines;   // the line of each image in the file
};

// Reads a CSV file with the columns path, label and perhaps split (train; val, valid or validation;
// test); other columns are passed over. Paths are relative to `root`. If every label is a whole
// number they are class indices, else names. The classes are `classes`, or without them those that
// the file has. An unknown class, a missing file, an image that is named twice and another split
// are an Error(data) with the line.
Labels read_labels(const std::filesystem::path& file, const std::filesystem::path& root,
                   ClassOrder order = ClassOrder::bytes, std::span<const std::string> classes = {});

// The data sets of labels that have parts. An Error names the line of a class that has no training
// image.
TrainingData training_data(Labels labels, const std::filesystem::path& file);

}  // namespace engine

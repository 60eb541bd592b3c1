// Which images train, which validate and which test, chosen at random by shares of one data set. A
// split is written as a file of labels, which labels.h reads.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

enum class Part : uint8_t { train, validation, test };
std::string_view to_string(Part part);  // train, val, test
// Reads these and the names that folders of parts may have, in upper or lower case.
std::optional<Part> parse_part(std::string_view text);

using Shares = std::array<double, 3>;  // one for each part; they sum to 1

// Reads "0.63/0.07/0.30", or two shares for a split without a test set. An Error(usage) names
// --split.
Shares parse_shares(std::string_view text);

// Splits `count` into whole numbers by the largest remainders; of equal remainders the first
// counts.
std::array<int64_t, 3> split_counts(int64_t count, const Shares& shares);

// The part of each image: the images are shuffled with `seed` and dealt out. With `stratify` each
// class has those shares, else all images together; of several labels label_split() does. `units`
// has a number for each image, from 0 without gaps: images of one number stay together. Units of
// several images are dealt out first, the largest first, each to the part that it overfills least
// and that needs it most; then the single images fill what is left.
std::vector<Part> sample_split(const Dataset& all, const Shares& shares, bool stratify,
                               uint64_t seed, std::span<const uint32_t> units = {});

// The images of each part, in the order that they have in `all`. Every part has all the classes.
std::array<Dataset, 3> by_part(Dataset all, std::span<const Part> parts);

// The same as data sets to train with. Error(data) if a class has no image to train with, or no
// image is left for validation.
TrainingData apply_split(Dataset all, std::span<const Part> parts);

// CSV with the columns path, label, split and, where images have them, fold and group, a line for
// each image; of several labels there is no label but, behind the others, a column y:NAME of 0, 1
// or nothing for each. An image of no fold has an empty field. Paths below `root` are relative to
// it.
std::string split_csv(const TrainingData& data, const std::filesystem::path& root);

}  // namespace engine

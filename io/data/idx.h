// MNIST's idx files, plain or compressed by gzip: images (magic number 0x803) and labels (0x801).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

// Each reads one file. A wrong magic number, a size out of range, and bytes that are missing or
// left over are Errors.
std::vector<Image> read_idx_images(const std::filesystem::path& file);  // gray
std::vector<uint8_t> read_idx_labels(const std::filesystem::path& file);

// Whether a folder holds the images of train or of t10k under their original names, with or without
// the extension .gz.
bool has_idx_files(const std::filesystem::path& folder);

// Reads the four files under their original names: train is the training set, t10k the validation
// set. The classes are "0", "1", … up to the largest label of train.
TrainingData read_idx_folder(const std::filesystem::path& folder);

// Reads t10k alone; the labels are positions in `classes`, which are numbers as above.
Dataset read_idx_validation(const std::filesystem::path& folder,
                            const std::vector<std::string>& classes);

}  // namespace engine

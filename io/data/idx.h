// MNIST's idx files, plain or gzip: images (magic 0x803) and labels (magic 0x801) with exact
// lengths.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

// One file. A wrong magic number, a size out of range and bytes missing or left over are Errors.
std::vector<Image> read_idx_images(const std::filesystem::path& file);  // gray
std::vector<uint8_t> read_idx_labels(const std::filesystem::path& file);

// Whether a folder holds the images of train or of t10k under their original names, with or without
// .gz.
bool has_idx_files(const std::filesystem::path& folder);

// The four files under their original names: train as training set, t10k as validation set. The
// classes are "0", "1", … up to the largest label of train.
TrainingData read_idx_folder(const std::filesystem::path& folder);

// Only t10k, with labels as positions in `classes`, which are digits as above.
Dataset read_idx_validation(const std::filesystem::path& folder,
                            const std::vector<std::string>& classes);

}  // namespace engine

// MNIST's idx files, plain or compressed by gzip: images (magic number 0x803) and labels (0x801).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

// Each reads one file. A wrong magic number, a size out of range, a header that promises more than
// the file can hold, and bytes that are missing or left over are Errors. Of compressed data, which
// may unpack to anything, at most 100 times the file's size is taken, and 16 MiB in any case.
std::vector<Image> read_idx_images(const std::filesystem::path& file);  // gray
std::vector<uint8_t> read_idx_labels(const std::filesystem::path& file);

// Whether a folder holds the images of train or of t10k. Their files are called
// train-images-idx3-ubyte, t10k-labels-idx1-ubyte and so on, as MNIST's, or as EMNIST's with
// another name in front and test for t10k; there may be a dot for the second hyphen, and .gz
// behind.
bool has_idx_files(const std::filesystem::path& folder);

// Reads the four files: train is the training set, t10k the validation set. The classes are the
// labels of train in the order of their numbers.
TrainingData read_idx_folder(const std::filesystem::path& folder);

// Reads t10k alone; the labels are positions in `classes`, which are numbers as above.
Dataset read_idx_validation(const std::filesystem::path& folder,
                            const std::vector<std::string>& classes);

}  // namespace engine

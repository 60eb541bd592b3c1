// The features of images as an array that numpy.load reads, and their paths beside it.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "io/files/atomic_file.h"
#include "io/files/npy.h"

namespace engine {

// FILE.npy, float32 (images, features), and FILE.csv with the column `path` in the same order. Both
// grow as images come and are there once commit() returns.
class FeaturesFile {
 public:
  // Error(usage) unless the name ends in .npy.
  FeaturesFile(const std::filesystem::path& file, int64_t features);

  void append(const std::string& path, std::span<const float> features);
  void commit();
  int64_t rows() const { return array_.rows(); }

 private:
  NpyWriter array_;
  AtomicFile paths_;
};

}  // namespace engine

// Arrays in NumPy's file format (.npy, version 1.0), which numpy.load and numpy.memmap read:
// float32, in C order, little endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/files/atomic_file.h"

namespace engine {

// The bytes before the values of an array of that shape: a multiple of 64, at least 128, and as
// many for every number of rows (the first dimension).
std::string npy_header(std::span<const int64_t> shape);

// An array that grows row by row, of which nothing stays in memory: the number of rows is put into
// the header at the end.
class NpyWriter {
 public:
  // A row has the dimensions `row`: {features}, or {height, width}. Error(usage) for a device or a
  // pipe, whose header could not be written again.
  NpyWriter(const std::filesystem::path& path, std::vector<int64_t> row);

  void append(std::span<const float> values);  // whole rows
  int64_t rows() const { return rows_; }
  void commit();  // the file is there, as AtomicFile's

 private:
  std::string header() const;

  std::vector<int64_t> row_;
  size_t row_size_ = 1;
  int64_t rows_ = 0;
  AtomicFile file_;
};

}  // namespace engine

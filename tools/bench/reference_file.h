// A file that tools/compare wrote for `engine parity`, and typed access to what it says.
#pragma once

#include <string>
#include <vector>

#include "engine/tensor.h"

namespace engine {

// Throws Error(data), naming what is missing.
class ReferenceFile {
 public:
  explicit ReferenceFile(const TensorFile& file) : file_(file) {}

  const std::string& text(const std::string& key) const;  // of the metadata
  int number(const std::string& key) const;
  std::vector<double> numbers(const std::string& key) const;  // "0.485,0.456,0.406"
  const Tensor* find(const std::string& name) const;          // null: not there
  std::vector<double> values(const std::string& name) const;  // as double

 private:
  const TensorFile& file_;
};

std::vector<double> as_doubles(const Tensor& tensor);

}  // namespace engine

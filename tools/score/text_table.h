// Figures in tables of 80 columns, as people read them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/measures/resampling.h"

namespace engine {

// With as many digits as a share of so many images supports: its standard error is at most 0.5/√n.
// "-" where there is no figure or no image.
std::string number_text(const std::optional<double>& value, int64_t samples);
// "[0.27, 0.56]"
std::string bounds_text(const FigureInterval& interval, int64_t samples);
// "0.41 0.27-0.56"
std::string with_bounds(const std::optional<double>& value, const FigureInterval& interval,
                        int64_t samples);
// Nothing where there are no samples.
std::optional<double> share_if_any(int64_t samples, double value);

// A table whose first column holds names, on the left, and takes what the others leave.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { add(std::move(head)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace engine

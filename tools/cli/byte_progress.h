// The progress line of a file that arrives:
//   fetching NAME  12.3 of 47.2 MiB  3.1 MiB/s  eta 0:11
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "tools/cli/progress.h"

namespace engine {

class ByteProgress {
 public:
  explicit ByteProgress(std::string title, ProgressOutput output = progress_to_stderr());
  // `done` bytes are there of `whole`, which is 0 where nobody knows. The rate is that since the
  // first call, whose bytes were there before.
  void show(int64_t done, int64_t whole);
  // Makes room for other lines.
  void clear() { line_.clear(); }

 private:
  std::string title_;
  ProgressLine line_;
  double began_ = 0, shown_at_ = -std::numeric_limits<double>::infinity();
  int64_t before_ = -1;  // bytes at the first call
};

}  // namespace engine

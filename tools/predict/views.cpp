#include "tools/predict/views.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace engine {

void write_view(uint8_t* to, const uint8_t* from, int count, int side, int channels, int view) {
  const size_t image = size_t(side) * side * channels;
  for (int i = 0; i < count; ++i, from += image)
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x, to += channels) {
        int row = y, column = x;
        if (view & 4) std::swap(row, column);
        if (view & 2) row = side - 1 - row;
        if (view & 1) column = side - 1 - column;
        std::copy_n(from + (size_t(row) * side + column) * channels, channels, to);
      }
}

}  // namespace engine

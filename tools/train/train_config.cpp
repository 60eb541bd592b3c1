#include "tools/train/train_config.h"

#include <algorithm>
#include <cmath>

namespace engine {

int image_size(const SizeGrowth& growth, int size, int epoch, int epochs) {
  constexpr int kStages = 4, kMultiple = 32;
  if (growth.last == 0) return size;
  const int stage = std::min(kStages - 1, epoch * kStages / std::max(1, epochs));
  if (stage == kStages - 1) return growth.last;
  const double exact = growth.first + double(growth.last - growth.first) * stage / (kStages - 1);
  return std::clamp(static_cast<int>(std::lround(exact / kMultiple)) * kMultiple, growth.first,
                    growth.last);
}

}  // namespace engine

// Data sets of images that are nowhere, to be divided.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <vector>

#include "io/data/dataset.h"

namespace engine::test {

// Classes "a", "b", … with that many images each.
inline Dataset data_set(const std::vector<int>& counts) {
  Dataset data;
  for (size_t c = 0; c < counts.size(); ++c) {
    data.classes.emplace_back(1, static_cast<char>('a' + c));
    for (int i = 0; i < counts[c]; ++i)
      data.samples.push_back({fmt::format("/root/{}/{}.jpg", data.classes[c], i), int(c)});
  }
  return data;
}

}  // namespace engine::test

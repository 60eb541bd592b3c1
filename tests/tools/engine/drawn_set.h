// A drawn image set for tests that start the program.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "io/data/dataset.h"
#include "io/images/draw.h"
#include "tests/support.h"

namespace engine::test {

// Images of ten classes in train/ and val/, of 48 x 48 pixels.
struct Drawn {
  TemporaryFolder folder;
  std::filesystem::path set = folder.path() / "set";

  explicit Drawn(int train = 3, int validation = 1) {
    draw_dataset(set, DrawnSet::objects,
                 {.train_per_class = train, .validation_per_class = validation, .size = 48});
  }
  std::string path(const char* name) const { return folder.path() / name; }
  std::filesystem::path image(const char* part, const char* name, int i) const {
    return list_images(set / part / name).at(size_t(i));
  }
};

}  // namespace engine::test

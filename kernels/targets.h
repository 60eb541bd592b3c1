// What images are said to show: one type from the data set over the batch to the loss.
#pragma once

#include <cstdint>

namespace engine {

// What is asked of an image: which class it has, or of each of several labels whether it has it.
enum class Task : uint8_t { classes, labels };

// Whether an image has a label. What is missing is not known: no loss and no measure counts it.
enum class Presence : uint8_t { absent = 0, present = 1, missing = 2 };

// Of a batch, one of the two; both null: nothing is said.
struct Targets {
  const int32_t* classes = nullptr;  // (count,)
  const Presence* labels = nullptr;  // (count, labels)

  Targets() = default;
  Targets(const int32_t* classes) : classes(classes) {}
  Targets(const Presence* labels) : labels(labels) {}
  explicit operator bool() const { return classes || labels; }
};

}  // namespace engine

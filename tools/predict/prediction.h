// What a network says of one image.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/loss.h"

namespace engine {

struct Prediction {
  std::string path;
  int64_t position = 0;               // of the image, from 0
  std::vector<float> logits;          // (classes), of the image itself
  std::vector<double> probabilities;  // (classes)
  std::vector<int> ranked;            // classes, the most probable first; of equals the lower one

  int best() const { return ranked.front(); }
};

// The probabilities are the mean over the views of softmax(logits / temperature), of labels of the
// sigmoid; `ranked` are the first `top` classes. `views` has the logits of the image itself first,
// then of its other views.
Prediction predict_image(std::span<const std::span<const float>> views, int top,
                         double temperature = 1, Task task = Task::classes);

// The name of a class; its number where the weights name none.
std::string class_name(const std::vector<std::string>& classes, int index);

}  // namespace engine

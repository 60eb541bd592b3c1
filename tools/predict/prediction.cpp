#include "tools/predict/prediction.h"

#include <algorithm>
#include <numeric>

#include "engine/measures/labels.h"
#include "engine/measures/metrics.h"

namespace engine {

Prediction predict_image(std::span<const std::span<const float>> views, int top, double temperature,
                         Task task) {
  const size_t classes = views[0].size();
  Prediction p{.logits = {views[0].begin(), views[0].end()},
               .probabilities = std::vector<double>(classes),
               .ranked = std::vector<int>(classes)};
  std::vector<float> scaled(classes);
  std::vector<double> of_view(classes);
  for (const std::span<const float> logits : views) {
    std::ranges::transform(logits, scaled.begin(),
                           [&](float z) { return static_cast<float>(z / temperature); });
    if (task == Task::labels)
      of_view = sigmoids(scaled);
    else
      cross_entropy(scaled, 0, of_view);
    for (size_t c = 0; c < classes; ++c) p.probabilities[c] += of_view[c] / double(views.size());
  }
  std::iota(p.ranked.begin(), p.ranked.end(), 0);
  const size_t kept = std::min(size_t(top), classes);
  std::partial_sort(p.ranked.begin(), p.ranked.begin() + static_cast<std::ptrdiff_t>(kept),
                    p.ranked.end(), [&](int a, int b) {
                      return std::pair(-p.probabilities[a], a) < std::pair(-p.probabilities[b], b);
                    });
  p.ranked.resize(kept);
  return p;
}

std::string class_name(const std::vector<std::string>& classes, int index) {
  return classes.empty() ? std::to_string(index) : classes[size_t(index)];
}

}  // namespace engine

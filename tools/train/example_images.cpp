#include "tools/train/example_images.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "engine/measures/labels.h"
#include "engine/measures/metrics.h"
#include "io/data/sample.h"
#include "io/images/contact_sheet.h"
#include "tools/machine/environment.h"

namespace engine {

std::vector<Example> spread_examples(const Dataset& data, size_t count) {
  const size_t samples = data.samples.size(), shown = std::min(count, samples);
  std::vector<Example> examples;
  for (size_t i = 0; i < shown; ++i) {
    const size_t sample = (2 * i + 1) * samples / (2 * shown);
    examples.push_back({sample, label_text(data, data.samples[sample])});
  }
  return examples;
}

std::vector<Example> worst_examples(const EvaluationResult& result, const Dataset& data,
                                    size_t count) {
  const size_t classes = data.classes.size();
  std::vector<double> p(classes);
  const auto loss_of = [&](size_t sample) {
    const auto logits = std::span(result.logits).subspan(sample * classes, classes);
    if (data.task == Task::classes) return cross_entropy(logits, data.samples[sample].label, p);
    p = sigmoids(logits);
    return binary_cross_entropy(logits, data.samples[sample].labels);
  };
  std::vector<std::pair<double, size_t>> losses;
  for (size_t i = 0; i < data.samples.size(); ++i)
    if (result.counted[i]) losses.emplace_back(-loss_of(i), i);
  const size_t shown = std::min(count, losses.size());
  std::partial_sort(losses.begin(), losses.begin() + std::ptrdiff_t(shown), losses.end());
  std::vector<Example> examples;
  for (size_t i = 0; i < shown; ++i) {
    const size_t sample = losses[i].second;
    loss_of(sample);
    const size_t best = size_t(std::max_element(p.begin(), p.end()) - p.begin());
    examples.push_back(
        {sample, fmt::format("{}\nsaid {} {:.2f}", label_text(data, data.samples[sample]),
                             data.classes[best], p[best])});
  }
  return examples;
}

std::optional<Image> example_sheet(const Dataset& data, std::span<const Example> examples,
                                   const Preprocess& preprocess) {
  constexpr int kSide = 128;
  const Preprocess shown = with_crop(preprocess, std::min(preprocess.crop, kSide));
  std::vector<Image> pictures;
  std::vector<std::string> texts;
  for (const Example& example : examples) {
    try {
      pictures.push_back(
          evaluate_transform(read_sample(data, example.sample, shown.channels), shown));
      texts.push_back(example.text);
    } catch (const Error& error) {
      if (error.kind != Failure::data) throw;
    }
  }
  if (pictures.empty()) return std::nullopt;
  return contact_sheet(pictures, texts, shared_file("DejaVuSans.ttf"));
}

}  // namespace engine

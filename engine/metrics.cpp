#include "engine/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace engine {

double cross_entropy(std::span<const float> logits, int label, std::span<double> probabilities) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float z : logits) sum += std::exp(z - top);
  for (size_t c = 0; c < probabilities.size(); ++c)
    probabilities[c] = std::exp(logits[c] - top) / sum;
  return top + std::log(sum) - logits[label];
}

std::optional<double> area_under_curve(std::span<const double> scores,
                                       std::span<const uint8_t> positive) {
  const auto positives =
      std::count_if(positive.begin(), positive.end(), [](uint8_t p) { return p != 0; });
  const auto negatives = static_cast<std::ptrdiff_t>(positive.size()) - positives;
  if (positives == 0 || negatives == 0) return std::nullopt;
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  double rank_sum = 0;  // of the positives; tied scores share their mean rank (Mann–Whitney)
  for (size_t i = 0; i < order.size();) {
    size_t end = i;
    while (end < order.size() && scores[order[end]] == scores[order[i]]) ++end;
    const double rank = (double(i) + double(end) + 1) / 2;
    for (; i < end; ++i)
      if (positive[order[i]]) rank_sum += rank;
  }
  const double p = double(positives), n = double(negatives);
  return (rank_sum - p * (p + 1) / 2) / (p * n);
}

Metrics evaluate_logits(std::span<const float> logits, std::span<const int32_t> labels,
                        int classes) {
  const size_t samples = labels.size();
  Metrics m{.samples = static_cast<int64_t>(samples)};
  if (samples == 0) return m;
  std::vector<double> probabilities(samples * classes);
  int64_t correct1 = 0, correct5 = 0;
  for (size_t i = 0; i < samples; ++i) {
    const auto z = logits.subspan(i * classes, classes);
    const int label = labels[i];
    m.loss += cross_entropy(z, label, std::span(probabilities).subspan(i * classes, classes));
    int rank = 0;
    for (int c = 0; c < classes; ++c) rank += z[c] > z[label] || (z[c] == z[label] && c < label);
    correct1 += rank < 1;
    correct5 += rank < 5;
  }
  m.loss /= double(samples);
  m.top1 = double(correct1) / double(samples);
  m.top5 = double(correct5) / double(samples);

  double area = 0;
  int counted = 0;
  std::vector<double> scores(samples);
  std::vector<uint8_t> positive(samples);
  for (int c = 0; c < classes; ++c) {
    for (size_t i = 0; i < samples; ++i) {
      scores[i] = probabilities[i * classes + c];
      positive[i] = labels[i] == c;
    }
    if (const auto auc = area_under_curve(scores, positive)) area += *auc, ++counted;
  }
  if (counted > 0) m.auc_macro = area / counted;
  return m;
}

}  // namespace engine

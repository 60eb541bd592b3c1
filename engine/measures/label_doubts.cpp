#include "engine/measures/label_doubts.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"

namespace engine {
namespace {

LabelDoubt doubt_of(std::span<const double> p, int32_t label,
                    std::span<const std::optional<double>> thresholds, DoubtScore score) {
  const auto own = static_cast<size_t>(label);
  size_t other = own == 0 ? 1 : 0;
  std::optional<size_t> confident;
  for (size_t c = 0; c < p.size(); ++c) {
    if (c != own && p[c] > p[other]) other = c;
    if (thresholds[c] && p[c] >= *thresholds[c] && (!confident || p[c] > p[*confident]))
      confident = c;
  }
  return {.suggested = static_cast<int32_t>(other),
          .p_label = p[own],
          .p_suggested = p[other],
          .score = score == DoubtScore::self_confidence ? p[own] : p[own] - p[other],
          .issue = confident && *confident != own};
}

}  // namespace

std::vector<std::optional<double>> confident_thresholds(std::span<const double> probabilities,
                                                        std::span<const int32_t> labels,
                                                        int classes) {
  const auto count = static_cast<size_t>(classes);
  std::vector<double> sums(count);
  std::vector<int64_t> samples(count);
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto label = static_cast<size_t>(labels[i]);
    sums[label] += probabilities[i * count + label];
    ++samples[label];
  }
  std::vector<std::optional<double>> thresholds(count);
  for (size_t c = 0; c < count; ++c)
    if (samples[c] > 0) thresholds[c] = sums[c] / static_cast<double>(samples[c]);
  return thresholds;
}

std::vector<LabelDoubt> rank_label_doubts(std::span<const double> probabilities,
                                          std::span<const int32_t> labels, int classes,
                                          DoubtScore score) {
  const auto count = static_cast<size_t>(classes);
  require(std::ranges::all_of(probabilities, [](double p) { return std::isfinite(p); }),
          Failure::diverged, "a probability is not finite");
  const auto thresholds = confident_thresholds(probabilities, labels, classes);
  std::vector<LabelDoubt> doubts;
  for (size_t i = 0; i < labels.size(); ++i) {
    doubts.push_back(
        doubt_of(probabilities.subspan(i * count, count), labels[i], thresholds, score));
    doubts.back().sample = static_cast<int64_t>(i);
  }
  std::ranges::stable_sort(doubts, {}, &LabelDoubt::score);
  return doubts;
}

std::vector<EntryDoubt> rank_entry_doubts(std::span<const double> probabilities,
                                          std::span<const Presence> presence, int labels,
                                          DoubtScore score) {
  const auto count = static_cast<size_t>(labels);
  std::vector<EntryDoubt> all;
  for (size_t label = 0; label < count; ++label) {
    std::vector<double> p;  // (known samples, absent and present)
    std::vector<int32_t> given;
    std::vector<int64_t> samples;
    for (size_t at = label; at < presence.size(); at += count) {
      if (presence[at] == Presence::missing) continue;
      p.insert(p.end(), {1 - probabilities[at], probabilities[at]});
      given.push_back(presence[at] == Presence::present);
      samples.push_back(static_cast<int64_t>(at / count));
    }
    for (const LabelDoubt& doubt : rank_label_doubts(p, given, 2, score)) {
      EntryDoubt& of = all.emplace_back(EntryDoubt{doubt, static_cast<int32_t>(label)});
      of.sample = samples[static_cast<size_t>(doubt.sample)];
    }
  }
  std::ranges::stable_sort(all, {}, &EntryDoubt::score);
  return all;
}

}  // namespace engine

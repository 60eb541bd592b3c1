#include "io/data/folds.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/data/groups.h"
#include "io/data/label_split.h"

namespace engine {
namespace {

// Images by fold and class, and what placing a unit costs: Σ over the classes, and once for all
// images, of (count of the fold / count of all)².
class FoldCounts {
 public:
  FoldCounts(const Dataset& all, size_t folds)
      : classes_(all.classes.size()),
        totals_(folds),
        counts_(folds * classes_),
        weights_(classes_) {
    std::vector<int64_t> images(classes_);
    for (const Sample& sample : all.samples) ++images[static_cast<size_t>(sample.label)];
    const auto square = [](int64_t n) { return static_cast<double>(n) * static_cast<double>(n); };
    for (size_t c = 0; c < classes_; ++c)  // the mean over the classes weighs as much as all images
      weights_[c] = images[c] > 0 ? 1 / square(images[c]) / static_cast<double>(classes_) : 0;
    weight_ = 1 / square(std::max<int64_t>(1, std::ssize(all.samples)));
  }

  size_t folds() const { return totals_.size(); }
  int64_t& count(size_t fold, size_t label) { return counts_[fold * classes_ + label]; }
  int64_t& total(size_t fold) { return totals_[fold]; }

  void add(const Unit& unit, size_t fold, int64_t sign) {
    for (const auto& [label, images] : unit.counts)
      count(fold, label) += sign * images, total(fold) += sign * images;
  }

  // What the sum grows by when the unit, which is in no fold, comes into this one. What all folds
  // have in common is left out.
  double cost(const Unit& unit, size_t fold) {
    double sum = 0;
    for (const auto& [label, images] : unit.counts)
      sum += weights_[label] * static_cast<double>(images * count(fold, label));
    return sum + weight_ * static_cast<double>(std::ssize(unit.images) * total(fold));
  }

  // The fold of least cost; `at` where no other is better by more than rounding.
  size_t best(const Unit& unit, size_t at) {
    constexpr double kRounding = 1e-12;
    double least = cost(unit, at);
    for (size_t fold = 0; fold < folds(); ++fold)
      if (const double here = cost(unit, fold); here < least - kRounding * (least + here))
        least = here, at = fold;
    return at;
  }

 private:
  size_t classes_;
  std::vector<int64_t> totals_, counts_;  // (folds), (folds, classes)
  std::vector<double> weights_;           // of each class
  double weight_ = 0;                     // of all images
};

// The fold of each unit.
std::vector<size_t> place(std::span<const Unit> units, FoldCounts& table) {
  constexpr int kMostPasses = 50;  // each lowers the sum; a handful do
  std::vector<size_t> folds;
  for (const Unit& unit : units) {
    folds.push_back(table.best(unit, 0));
    table.add(unit, folds.back(), 1);
  }
  bool moved = true;
  for (int pass = 0; moved && pass < kMostPasses; ++pass) {
    moved = false;
    for (size_t i = 0; i < units.size(); ++i) {
      table.add(units[i], folds[i], -1);
      const size_t better = table.best(units[i], folds[i]);
      moved = moved || better != folds[i];
      folds[i] = better;
      table.add(units[i], better, 1);
    }
  }
  return folds;
}

// How many of `images` single ones of a class each fold gets: one at a time goes to the fold that
// has fewest of the class, of several to that with fewest images, of these to the first.
std::vector<int64_t> fill(int64_t images, size_t label, FoldCounts& table) {
  std::vector<int64_t> more(table.folds());
  std::set<std::tuple<int64_t, int64_t, size_t>> order;
  for (size_t fold = 0; fold < table.folds(); ++fold)
    order.insert({table.count(fold, label), table.total(fold), fold});
  for (; images > 0; --images) {
    const size_t fold = std::get<2>(*order.begin());
    order.erase(order.begin());
    ++more[fold];
    order.insert({++table.count(fold, label), ++table.total(fold), fold});
  }
  return more;
}

void require_enough(const Dataset& all, int folds, std::span<const uint32_t> units) {
  std::vector<std::set<uint32_t>> units_of(all.classes.size());
  for (uint32_t i = 0; i < all.samples.size(); ++i)
    units_of[static_cast<size_t>(all.samples[i].label)].insert(units.empty() ? i : units[i]);
  for (size_t c = 0; c < units_of.size(); ++c)
    require(std::cmp_greater_equal(units_of[c].size(), folds), Failure::data,
            "--folds {}: class \"{}\" has images of {} only that may be in different folds (copies "
            "and groups stay together)",
            folds, all.classes[c], units_of[c].size());
}

}  // namespace

std::vector<int> sample_folds(const Dataset& all, int folds, uint64_t seed,
                              std::span<const uint32_t> units) {
  if (all.task == Task::labels) return label_folds(all, folds, seed, units);
  require_enough(all, folds, units);
  std::vector<size_t> labels;
  for (const Sample& sample : all.samples) labels.push_back(static_cast<size_t>(sample.label));
  FoldCounts table(all, static_cast<size_t>(folds));
  std::vector<int> chosen(all.samples.size());
  const std::vector<Unit> large = sample_large_units(units, labels, seed);
  const std::vector<size_t> placed = place(large, table);
  for (size_t i = 0; i < large.size(); ++i)
    for (const uint32_t image : large[i].images) chosen[image] = static_cast<int>(placed[i]) + 1;

  std::vector<std::vector<uint32_t>> single(all.classes.size());
  for (uint32_t i = 0; i < labels.size(); ++i)
    if (chosen[i] == 0) single[labels[i]].push_back(i);
  for (size_t label = 0; label < single.size(); ++label) {
    std::vector<uint32_t>& images = single[label];
    Rng rng({.seed = seed, .position = static_cast<uint32_t>(label), .purpose = purpose("folds")});
    for (auto left = static_cast<uint32_t>(images.size()); left > 1; --left)
      std::swap(images[left - 1], images[rng.below(left)]);
    auto next = images.begin();
    const std::vector<int64_t> counts = fill(std::ssize(images), label, table);
    for (size_t fold = 0; fold < counts.size(); ++fold)
      for (int64_t i = 0; i < counts[fold]; ++i) chosen[*next++] = static_cast<int>(fold) + 1;
  }
  return chosen;
}

std::vector<Part> parts_of_fold(const Dataset& all, int fold) {
  std::vector<Part> parts;
  for (const Sample& sample : all.samples)
    parts.push_back(sample.fold == 0      ? Part::test
                    : sample.fold == fold ? Part::validation
                                          : Part::train);
  return parts;
}

}  // namespace engine

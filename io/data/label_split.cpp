#include "io/data/label_split.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "engine/error.h"
#include "engine/rng.h"

namespace engine {
namespace {

using Lacks = std::vector<double>;  // (parts,) images that each still should get

struct LabelUnit {
  std::vector<uint32_t> images;
  std::vector<int> labels;  // (labels,) how many of the images have each
};

Lacks lacks(double images, std::span<const double> shares) {
  Lacks of;
  for (const double share : shares) of.push_back(images * share);
  return of;
}

// Shuffled, the largest first.
std::vector<LabelUnit> make_units(const Dataset& all, uint64_t seed,
                                  std::span<const uint32_t> units) {
  const size_t samples = all.samples.size();
  std::vector<LabelUnit> made(units.empty() ? samples : 1 + std::ranges::max(units));
  for (uint32_t i = 0; i < samples; ++i) {
    LabelUnit& unit = made[units.empty() ? i : units[i]];
    unit.images.push_back(i);
    unit.labels.resize(all.classes.size());
    for (size_t c = 0; c < all.classes.size(); ++c)
      unit.labels[c] += all.samples[i].labels[c] == Presence::present;
  }
  Rng rng({.seed = seed, .purpose = purpose("label split")});
  for (auto left = static_cast<uint32_t>(made.size()); left > 1; --left)
    std::swap(made[left - 1], made[rng.below(left)]);
  std::ranges::stable_sort(made, std::ranges::greater(),
                           [](const LabelUnit& unit) { return unit.images.size(); });
  return made;
}

class Dealer {
 public:
  Dealer(const Dataset& all, std::span<const double> shares, uint64_t seed,
         std::span<const uint32_t> units)
      : shares_(shares),
        units_(make_units(all, seed, units)),
        dealt_(units_.size()),
        left_(images_by_class(all)),
        images_(lacks(double(all.samples.size()), shares)),
        parts_(all.samples.size()),
        rng_({.seed = seed, .purpose = purpose("label split ties")}) {
    for (const size_t count : left_) labels_.push_back(lacks(double(count), shares));
  }

  // The part of each image, as a position among the shares.
  std::vector<size_t> run() {
    for (size_t label = rarest(); label < left_.size(); label = rarest())
      for (size_t u = 0; u < units_.size(); ++u)
        if (!dealt_[u] && units_[u].labels[label] > 0) give(u, part_for(&labels_[label]));
    for (size_t u = 0; u < units_.size(); ++u)
      if (!dealt_[u]) give(u, part_for(nullptr));
    return std::move(parts_);
  }

 private:
  // Of the labels that images left have; their number if there is none.
  size_t rarest() const {
    size_t best = left_.size();
    for (size_t c = 0; c < left_.size(); ++c)
      if (left_[c] > 0 && (best == left_.size() || left_[c] < left_[best])) best = c;
    return best;
  }

  size_t part_for(const Lacks* of_label) {
    const auto key = [&](size_t part) {
      return std::pair(of_label ? (*of_label)[part] : 0., images_[part]);
    };
    std::vector<size_t> best;
    for (size_t part = 0; part < shares_.size(); ++part) {
      if (shares_[part] == 0) continue;
      if (!best.empty() && key(part) < key(best.front())) continue;
      if (!best.empty() && key(part) > key(best.front())) best.clear();
      best.push_back(part);
    }
    return best[rng_.below(static_cast<uint32_t>(best.size()))];
  }

  void give(size_t u, size_t part) {
    const LabelUnit& unit = units_[u];
    dealt_[u] = true;
    images_[part] -= double(unit.images.size());
    for (size_t c = 0; c < left_.size(); ++c) {
      left_[c] -= static_cast<size_t>(unit.labels[c]);
      labels_[c][part] -= unit.labels[c];
    }
    for (const uint32_t image : unit.images) parts_[image] = part;
  }

  std::span<const double> shares_;
  std::vector<LabelUnit> units_;
  std::vector<bool> dealt_;
  std::vector<size_t> left_;   // (labels,) images with each that are not dealt out
  std::vector<Lacks> labels_;  // (labels,)
  Lacks images_;
  std::vector<size_t> parts_;
  Rng rng_;
};

void require_two_units(const Dataset& all, int folds, std::span<const uint32_t> units) {
  std::vector<std::set<uint32_t>> units_of(all.classes.size());
  for (uint32_t i = 0; i < all.samples.size(); ++i)
    for_each_class(all, all.samples[i],
                   [&](size_t label) { units_of[label].insert(units.empty() ? i : units[i]); });
  for (size_t c = 0; c < units_of.size(); ++c)
    require(units_of[c].size() > 1, Failure::data,
            "--folds {}: label \"{}\" has images of {} only that may be in different folds (copies "
            "and groups stay together), and every fold needs some to train with",
            folds, all.classes[c], units_of[c].size());
}

}  // namespace

std::vector<Part> label_split(const Dataset& all, const Shares& shares, uint64_t seed,
                              std::span<const uint32_t> units) {
  std::vector<Part> parts;
  for (const size_t part : Dealer(all, shares, seed, units).run())
    parts.push_back(static_cast<Part>(part));
  return parts;
}

std::vector<int> label_folds(const Dataset& all, int folds, uint64_t seed,
                             std::span<const uint32_t> units) {
  require_two_units(all, folds, units);
  const std::vector<double> shares(static_cast<size_t>(folds), 1. / folds);
  std::vector<int> chosen;
  for (const size_t fold : Dealer(all, shares, seed, units).run())
    chosen.push_back(static_cast<int>(fold) + 1);
  return chosen;
}

}  // namespace engine

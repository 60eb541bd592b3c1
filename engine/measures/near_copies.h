// Samples whose features point the same way: images of the same thing, enlarged, cut or saved
// again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engine {

struct NearPair {
  int64_t first = 0, second = 0;  // samples, first < second
  double similarity = 0;
};

struct NearOptions {
  double similarity = 0.95;  // the least that is found, above 0
  uint64_t seed = 0;         // of the directions below
  size_t most = 100'000;     // pairs that are kept, the most similar ones
};

// The pairs of rows of features (samples, features) whose cosine similarity, after the mean of all
// rows is taken from each, reaches options.similarity; the most similar first. Without the mean the
// features of a network, which are mostly positive, would all be similar. Rows that are the mean
// are similar to none.
//
// Not every pair is multiplied out: two rows are compared where enough of 256 random directions
// have both on the same side (Charikar, STOC 2002). Rows at an angle a differ in a/π of them; pairs
// within five standard deviations of that are compared, so that one in a million may be missed.
std::vector<NearPair> near_copies(std::span<const float> features, int64_t samples,
                                  const NearOptions& options);

}  // namespace engine

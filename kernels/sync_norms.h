// How ranks that normalise over the images of all of them put together what each has taken: the
// statistics of a slice after its forward, k0 and k1 before its backward. Always in rank order and
// in double, so that every rank gets the same bits.
#pragma once

#include <cstdint>

#include "kernels/random.h"

namespace engine {

// What the ranks tell each other of a slice. A rank's row holds its images and then, of every
// channel, two values: mean and biased variance, or k0 and k1.
template <class R>
struct RankRows {
  R* values = nullptr;  // (ranks, length())
  int ranks = 1, channels = 0;

  ENGINE_HOST_DEVICE int64_t length() const { return 1 + 2 * int64_t{channels}; }
  ENGINE_HOST_DEVICE R* row(int rank) const { return values + rank * length(); }
  ENGINE_HOST_DEVICE double images(int rank) const { return row(rank)[0]; }
  ENGINE_HOST_DEVICE double first(int rank, int c) const { return row(rank)[1 + c]; }
  ENGINE_HOST_DEVICE double second(int rank, int c) const { return row(rank)[1 + channels + c]; }
};

struct ChannelPair {
  double first = 0, second = 0;
};

// Mean and biased variance of channel c over the images of all ranks (Chan, Golub and LeVeque,
// 1979). A rank without images is passed over.
template <class R>
ENGINE_HOST_DEVICE ChannelPair merged_statistics(const RankRows<R>& rows, int c) {
  double mean = 0, squares = 0, images = 0;
  for (int rank = 0; rank < rows.ranks; ++rank) {
    const double more = rows.images(rank);
    if (more == 0) continue;
    const double all = images + more, d = rows.first(rank, c) - mean;
    squares += more * rows.second(rank, c) + d * d * images * more / all;
    mean += d * more / all;
    images = all;
  }
  return {mean, images > 0 ? squares / images : 0};
}

// k0 and k1 of channel c for all ranks. A rank divided its sums by its own pixels, so its share
// counts by its images: Σ k·images / Σ images.
template <class R>
ENGINE_HOST_DEVICE ChannelPair merged_sums(const RankRows<R>& rows, int c) {
  ChannelPair k;
  double images = 0;
  for (int rank = 0; rank < rows.ranks; ++rank) {
    const double more = rows.images(rank);
    if (more == 0) continue;
    k.first += rows.first(rank, c) * more;
    k.second += rows.second(rank, c) * more;
    images += more;
  }
  return images > 0 ? ChannelPair{k.first / images, k.second / images} : ChannelPair{};
}

}  // namespace engine

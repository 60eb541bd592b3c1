#include "engine/cpu/images.h"

#include <algorithm>
#include <vector>

namespace engine::cpu {
namespace {

// The normalised value of every byte, per channel: a lookup instead of two divisions per element.
template <int C>
struct NormalisedBytes {
  explicit NormalisedBytes(const InputView& view) {
    for (int c = 0; c < C; ++c)
      for (int u = 0; u < 256; ++u)
        of[c][u] = normalised<float>(static_cast<uint8_t>(u), view.mean[c], view.std[c]);
  }
  float of[C][256];
};

// Normalises the bytes as they are: there is no record and no mix.
template <int C>
void normalise(const Threads& threads, float* image, const InputView& view, const uint8_t* bytes) {
  const NormalisedBytes<C> table(view);
  threads.run(threads.count(), [&](int worker) {
    const Share pixels =
        share_of(int64_t{view.batch} * view.height * view.width, worker, threads.count());
    for (int64_t p = pixels.first; p < pixels.last; ++p)
      for (int c = 0; c < C; ++c) image[p * C + c] = table.of[c][bytes[p * C + c]];
  });
}

template <int C>
int32_t mean_level_of(const ImageRecord& r, const ImageSource& s) {
  const int contrast = contrast_position(r);
  if (contrast == kColorEdits) return 0;  // nobody asks
  uint64_t sum = 0;
  for (int y = 0; y < s.height; ++y)
    for (int x = 0; x < s.width; ++x)
      sum += gray_level(record_pixel<C>(r, s.pack, s.height, s.width, y, x, contrast, 0));
  return mean_level(sum, int64_t{s.height} * s.width);
}

template <int C>
void load_images(const Threads& threads, float* image, const InputView& view) {
  const ImageSource source = view.source();
  if (!source.records && !source.mixes) return normalise<C>(threads, image, view, source.images);
  if (source.records)
    threads.run(threads.count(), [&](int worker) {
      const Share samples = share_of(view.batch, worker, threads.count());
      for (int64_t n = samples.first; n < samples.last; ++n)
        view.mean_levels[n] = mean_level_of<C>(source.records[n], source);
    });
  threads.run(threads.count(), [&](int worker) {
    const Share rows = share_of(int64_t{view.batch} * view.height, worker, threads.count());
    for (int64_t row = rows.first; row < rows.last; ++row) {
      const int n = static_cast<int>(row / view.height), y = static_cast<int>(row % view.height);
      float* to = image + row * view.width * C;
      for (int x = 0; x < view.width; ++x, to += C) {
        float pixel[C];
        input_pixel<C>(pixel, source, n, y, x, view.mean, view.std);
        std::copy_n(pixel, C, to);
      }
    }
  });
}

}  // namespace

void load_images(const Threads& threads, float* image, const InputView& view) {
  view.channels == 1 ? load_images<1>(threads, image, view) : load_images<3>(threads, image, view);
}

}  // namespace engine::cpu

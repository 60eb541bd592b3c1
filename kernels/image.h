// What happens to an image on its way into the network, pixel by pixel, for every backend: it is
// read from the batch's bytes or out of the pack, cropped and flipped, its colours are changed, and
// it is normalised and mixed with another image of the batch.
#pragma once

#include <cstdint>

#include "kernels/color.h"
#include "kernels/operand.h"

namespace engine {

// Mixes a sample with a partner in the same rank's batch: mixup (Zhang et al.) if the box is empty,
// share · own + (1 − share) · partner's in float after normalisation; else CutMix (Yun et al.): the
// box of the network's input, in pixels, is the partner's. The loss mixes by `share` in both cases.
// With share 1 and an empty box the sample stays as it is.
struct Mix {
  int32_t partner = 0;  // position in the batch
  float share = 1;      // of the sample itself, in the label and, in mixup, in the pixels
  int16_t left = 0, top = 0, right = 0, bottom = 0;  // [left, right) × [top, bottom)

  ENGINE_HOST_DEVICE bool pastes() const { return right > left && bottom > top; }
};

constexpr int kColorEdits = 4;

// One sample as a part of the pack and what is done with it: crop, then flips, then colours in
// their order. The crop has the size of the network's input and may overhang: outside there are
// zeros, which the colours change like any other pixel.
struct ImageRecord {
  uint64_t offset = 0;            // in the pack: bytes of a (height, width, C) image
  int32_t width = 0, height = 0;  // of the stored image
  int32_t left = 0, top = 0;      // corner of the crop in it
  uint8_t flip_horizontal = 0, flip_vertical = 0;
  ColorEdit edits[kColorEdits] = {};  // none: no more; contrast at most once
  float amounts[kColorEdits] = {};    // of the edits: factors, of hue turns
};

// The batch as it is read for the network.
struct ImageSource {
  const uint8_t* images = nullptr;       // (batch, H, W, C), or
  const uint8_t* pack = nullptr;         // bytes, with
  const ImageRecord* records = nullptr;  // (batch,); null: `images`
  const int32_t* mean_levels = nullptr;  // (batch,) see mean_level(); of records with contrast
  const Mix* mixes = nullptr;            // (batch,) or null
  int height = 0, width = 0;
};

// The part of an edited image that needs the whole of it; kColorEdits: none does.
ENGINE_HOST_DEVICE int contrast_position(const ImageRecord& r) {
  int i = 0;
  while (i < kColorEdits && r.edits[i] != ColorEdit::contrast) ++i;
  return i;
}

// Pixel (y, x) of a record after its first `edits` colour edits.
template <int C>
ENGINE_HOST_DEVICE Pixel<C> record_pixel(const ImageRecord& r, const uint8_t* pack, int height,
                                         int width, int y, int x, int edits, int mean) {
  const int row = r.top + (r.flip_vertical ? height - 1 - y : y);
  const int column = r.left + (r.flip_horizontal ? width - 1 - x : x);
  Pixel<C> p{};
  if (row >= 0 && row < r.height && column >= 0 && column < r.width) {
    const uint8_t* from = pack + r.offset + (int64_t{row} * r.width + column) * C;
    for (int c = 0; c < C; ++c) p.value[c] = from[c];
  }
  for (int i = 0; i < edits && r.edits[i] != ColorEdit::none; ++i)
    p = edit_color(r.edits[i], r.amounts[i], mean, p);
  return p;
}

// Pixel (y, x) of sample n before normalisation.
template <int C>
ENGINE_HOST_DEVICE Pixel<C> source_pixel(const ImageSource& s, int n, int y, int x) {
  if (s.records)
    return record_pixel<C>(s.records[n], s.pack, s.height, s.width, y, x, kColorEdits,
                           s.mean_levels[n]);
  Pixel<C> p;
  const uint8_t* from = s.images + ((int64_t{n} * s.height + y) * s.width + x) * C;
  for (int c = 0; c < C; ++c) p.value[c] = from[c];
  return p;
}

// (u/255 − mean)/std.
template <class R>
ENGINE_HOST_DEVICE R normalised(uint8_t u, float mean, float std) {
  return (R(u) / R(255) - R(mean)) / R(std);
}

// Pixel (y, x) of sample n as the network gets it.
template <int C, class R>
ENGINE_HOST_DEVICE void input_pixel(R (&out)[C], const ImageSource& s, int n, int y, int x,
                                    const float mean[3], const float std[3]) {
  const Mix mix = s.mixes ? s.mixes[n] : Mix{};
  if (mix.pastes()) {
    if (y >= mix.top && y < mix.bottom && x >= mix.left && x < mix.right) n = mix.partner;
  }
  const Pixel<C> own = source_pixel<C>(s, n, y, x);
  for (int c = 0; c < C; ++c) out[c] = normalised<R>(own.value[c], mean[c], std[c]);
  if (mix.pastes() || mix.share == 1) return;
  const Pixel<C> other = source_pixel<C>(s, mix.partner, y, x);
  for (int c = 0; c < C; ++c)
    out[c] = R(mix.share) * out[c] +
             (R(1) - R(mix.share)) * normalised<R>(other.value[c], mean[c], std[c]);
}

// The memory of all staging slots that images are loaded from.
struct InputView {
  const uint8_t* images = nullptr;       // (kSlots, capacity, H, W, C)
  const uint8_t* pack = nullptr;         // null: none
  const ImageRecord* records = nullptr;  // (kSlots, capacity)
  int32_t* mean_levels = nullptr;        // (capacity,) scratch
  const Mix* mixes = nullptr;            // (kSlots, capacity); null: nothing is mixed
  int capacity = 0;
  int batch = 0, height = 0, width = 0, channels = 0;
  float mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};
  const StepParams* params = nullptr;

  ENGINE_HOST_DEVICE ImageSource source() const {
    const int64_t first = int64_t{params->slot} * capacity;
    ImageSource s{.images = images + first * height * width * channels,
                  .pack = pack,
                  .records = nullptr,
                  .mean_levels = mean_levels,
                  .mixes = nullptr,
                  .height = height,
                  .width = width};
    if (params->packed) s.records = records + first;
    if (mixes && params->mixed) s.mixes = mixes + first;
    return s;
  }
};

}  // namespace engine

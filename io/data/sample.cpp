#include "io/data/sample.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/data/device_augment.h"
#include "io/data/pack.h"

namespace engine {

Image read_sample(const Dataset& data, size_t index, int channels, DecodeOptions options) {
  if (data.pack) {
    if (const auto view = data.pack->image(data.records[index])) {
      Image image;
      image.width = view->width, image.height = view->height, image.channels = view->channels;
      image.pixels.assign(view->pixels, view->pixels + view->bytes());
      return convert_channels(std::move(image), channels);
    }
    // What the pack lacks comes from the source, in full and as the pack would hold it.
    Image image = data.images.empty() ? read_image(data.samples[index].path, channels)
                                      : convert_channels(data.images[index], channels);
    return pack_image(std::move(image), data.pack->spec());
  }
  if (!data.images.empty()) return convert_channels(data.images[index], channels);
  return read_image(data.samples[index].path, channels, options);
}

namespace {

// The square that `choose` asks for, of a picture of any size. Of a file only the part that matters
// is decoded.
Image read_square(const Dataset& data, size_t index, const Preprocess& preprocess,
                  DecodeOptions decoding,
                  const std::function<Resampling(int width, int height)>& choose) {
  const Interpolation interpolation = preprocess.interpolation;
  const auto square = [&](const ImageView& view) {
    return resample(view, 0, 0, choose(view.width, view.height), interpolation);
  };
  if (data.pack && data.pack->spec().channels == preprocess.channels)
    if (const auto view = data.pack->image(data.records[index])) return square(*view);
  if (data.pack || !data.images.empty())
    return square(view_of(read_sample(data, index, preprocess.channels)));

  thread_local Image recycled;
  std::optional<Resampling> chosen;
  DecodedPart part = read_part(
      data.samples[index].path, preprocess.channels, decoding,
      [&](int width, int height) {
        chosen = choose(width, height);
        return pixels_read(*chosen, interpolation);
      },
      std::move(recycled));
  if (!chosen) chosen = choose(part.width, part.height);
  Image image = resample(view_of(part.image), part.left, part.top, *chosen, interpolation);
  recycled = std::move(part.image);
  return image;
}

}  // namespace

Prepare evaluation_input(const Dataset& data, const Preprocess& preprocess) {
  return [&data, preprocess](size_t index, const RandomKey& key) {
    return read_square(data, index, preprocess, {}, [&](int width, int height) {
      Rng rng(key);  // a centre crop samples nothing
      return sample_crop_and_resize({}, preprocess, width, height, rng);
    });
  };
}

Prepare training_input(const Dataset& data, const Preprocess& preprocess,
                       const AugmentConfig& augment, bool fast_decode) {
  // A reduced picture must have what the resize needs; a random resized crop may use a small part
  // of it, so there it must have twice that.
  const int shorter = preprocess.resize_width > 0
                          ? std::max(preprocess.resize_height, preprocess.resize_width)
                          : preprocess.resize_height;
  const bool whole = augment.crop != CropKind::resized;
  const DecodeOptions decoding{.reduce_to = fast_decode ? (whole ? shorter : 2 * shorter) : 0};
  return [&data, preprocess, augment, decoding, edits = edit_stages(augment, preprocess)](
             size_t index, const RandomKey& key) {
    Rng rng(key);
    Image image = read_square(data, index, preprocess, decoding, [&](int width, int height) {
      return sample_crop_and_resize(augment, preprocess, width, height, rng);
    });
    for (const Stage& edit : edits) edit(image, rng);
    return image;
  };
}

PrepareRecord record_input(const Dataset& data, const Preprocess& preprocess,
                           const AugmentConfig& augment) {
  return [&data, preprocess, augment](size_t index, const RandomKey& key) {
    const Pack::Record& stored = data.pack->record(data.records[index]);
    require(stored.readable(), Failure::data, "{}: could not be read when the cache was made",
            data.samples[index].path);
    return sample_record(augment, preprocess, stored.offset, stored.width, stored.height, key);
  };
}

}  // namespace engine

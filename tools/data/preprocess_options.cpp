#include "tools/data/preprocess_options.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/data/device_augment.h"
#include "io/data/pack.h"

namespace engine {

Preprocess with_crop(const Preprocess& preprocess, int crop) {
  Preprocess scaled = preprocess;
  const double scale = double(crop) / preprocess.crop;
  scaled.resize_height = static_cast<int>(std::lround(preprocess.resize_height * scale));
  scaled.resize_width = static_cast<int>(std::lround(preprocess.resize_width * scale));
  scaled.crop = crop;
  return scaled;
}

Preprocess choose_preprocess(const std::string& model, const std::optional<Preprocess>& checkpoint,
                             const PreprocessOptions& options, int image_size) {
  Preprocess chosen = checkpoint.value_or(default_preprocess(model));
  if (image_size > 0) chosen = with_crop(chosen, image_size);
  if (options.resize) set_resize(chosen, *options.resize);
  if (options.interpolation) chosen.interpolation = *options.interpolation;
  if (options.crop) set_crop(chosen, *options.crop);
  return chosen;
}

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

// The square that `choose` asks for of a sample of any size, by the shortest way there is: of a
// file only the part that matters is decoded.
Image read_square(const Dataset& data, size_t index, const Preprocess& preprocess,
                  DecodeOptions decoding,
                  const std::function<Sampling(int width, int height)>& choose) {
  const Interpolation interpolation = preprocess.interpolation;
  const auto square = [&](const ImageView& view) {
    return sample(view, 0, 0, choose(view.width, view.height), interpolation);
  };
  if (data.pack && data.pack->spec().channels == preprocess.channels)
    if (const auto view = data.pack->image(data.records[index])) return square(*view);
  if (data.pack || !data.images.empty())
    return square(view_of(read_sample(data, index, preprocess.channels)));

  thread_local Image recycled;
  std::optional<Sampling> chosen;
  DecodedPart part = read_part(
      data.samples[index].path, preprocess.channels, decoding,
      [&](int width, int height) {
        chosen = choose(width, height);
        return pixels_read(*chosen, interpolation);
      },
      std::move(recycled));
  if (!chosen) chosen = choose(part.width, part.height);
  Image image = sample(view_of(part.image), part.left, part.top, *chosen, interpolation);
  recycled = std::move(part.image);
  return image;
}

}  // namespace

Prepare evaluation_input(const Dataset& data, const Preprocess& preprocess) {
  return [&data, preprocess](size_t index, const RandomKey& key) {
    return read_square(data, index, preprocess, {}, [&](int width, int height) {
      Rng rng(key);  // a centre crop draws nothing
      return draw_sampling({}, preprocess, width, height, rng);
    });
  };
}

Prepare training_input(const Dataset& data, const Preprocess& preprocess,
                       const AugmentConfig& augment, bool fast_decode) {
  // Whatever the resize needs; a random resized crop may use a small part of the image and gets
  // twice that.
  const int shorter = preprocess.resize_width > 0
                          ? std::max(preprocess.resize_height, preprocess.resize_width)
                          : preprocess.resize_height;
  const bool whole = augment.crop != CropKind::resized;
  const DecodeOptions decoding{.reduce_to = fast_decode ? (whole ? shorter : 2 * shorter) : 0};
  return [&data, preprocess, augment, decoding, edits = edit_stages(augment, preprocess)](
             size_t index, const RandomKey& key) {
    Rng rng(key);
    Image image = read_square(data, index, preprocess, decoding, [&](int width, int height) {
      return draw_sampling(augment, preprocess, width, height, rng);
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
    return draw_record(augment, preprocess, stored.offset, stored.width, stored.height, key);
  };
}

}  // namespace engine

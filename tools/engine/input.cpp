#include "tools/engine/input.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/rng.h"
#include "io/device_augment.h"
#include "io/pack.h"

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

Prepare evaluation_input(const Dataset& data, const Preprocess& preprocess) {
  return [&data, preprocess](size_t index, const RandomKey&) {
    return evaluate_transform(read_sample(data, index, preprocess.channels), preprocess);
  };
}

Prepare training_input(const Dataset& data, const Preprocess& preprocess,
                       const AugmentConfig& augment, bool fast_decode) {
  // Whatever the resize needs; a random resized crop may use a small part of the image and gets twice that.
  const int shorter = preprocess.resize_width > 0
                          ? std::max(preprocess.resize_height, preprocess.resize_width)
                          : preprocess.resize_height;
  const bool whole = augment.crop != CropKind::resized;
  const DecodeOptions decoding{.reduce_to = fast_decode ? (whole ? shorter : 2 * shorter) : 0};
  return [&data, preprocess, decoding, stages = train_stages(augment, preprocess)](
             size_t index, const RandomKey& key) {
    Image image = read_sample(data, index, preprocess.channels, decoding);
    Rng rng(key);
    for (const Stage& stage : stages) stage(image, rng);
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

#include "io/data/device_augment.h"

#include "engine/error.h"

namespace engine {

std::string device_obstacle(const AugmentConfig& config, const Preprocess& preprocess,
                            const PackSpec& spec) {
  if (config.crop == CropKind::resized) return "random resized crops are made on the CPU";
  if (config.affine != AffineRanges{}) return "warps are made on the CPU";
  if (config.rand_augment.operations > 0) return "RandAugment is made on the CPU";
  if (config.blur.probability > 0) return "blur is made on the CPU";
  if (config.erasing.probability > 0) return "erasing is made on the CPU";
  // A record holds nothing else, whatever recipes may get some day.
  AugmentConfig rest;
  rest.crop = config.crop, rest.crop_padding = config.crop_padding;
  rest.crop_area = config.crop_area, rest.crop_ratio = config.crop_ratio;
  rest.horizontal_flip = config.horizontal_flip, rest.vertical_flip = config.vertical_flip;
  rest.rand_augment = config.rand_augment, rest.jitter = config.jitter, rest.blur = config.blur;
  rest.erasing = config.erasing, rest.mixing = config.mixing;
  if (rest != config) return describe(config) + " is made on the CPU";
  if (!already_resized(spec, preprocess) || spec.channels != preprocess.channels)
    return fmt::format("the cache holds {}, the network gets resize {}", describe(spec),
                       format_resize(preprocess));
  return "";
}

ImageRecord sample_record(const AugmentConfig& config, const Preprocess& preprocess,
                          uint64_t offset, int width, int height, const RandomKey& key) {
  constexpr ColorEdit kEdits[] = {ColorEdit::brightness, ColorEdit::contrast, ColorEdit::saturation,
                                  ColorEdit::hue};
  Rng rng(key);
  const CropWindow window = sample_crop(config, width, height, preprocess.crop, rng);
  ImageRecord record{
      .offset = offset, .width = width, .height = height, .left = window.left, .top = window.top};
  if (config.horizontal_flip > 0) record.flip_horizontal = rng.chance(config.horizontal_flip);
  if (config.vertical_flip > 0) record.flip_vertical = rng.chance(config.vertical_flip);
  if (config.jitter == Jitter{}) return record;
  int used = 0;
  for (const JitterStep& step : sample_jitter(config.jitter, rng)) {
    if (!step.used) continue;
    record.edits[used] = kEdits[step.kind];
    record.amounts[used++] = step.value;
  }
  return record;
}

}  // namespace engine

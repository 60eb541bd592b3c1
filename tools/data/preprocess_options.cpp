#include "tools/data/preprocess_options.h"

namespace engine {

Preprocess choose_preprocess(const std::string& model, const std::optional<Preprocess>& checkpoint,
                             const PreprocessOptions& options, int image_size) {
  Preprocess chosen = checkpoint.value_or(default_preprocess(model));
  if (image_size > 0) chosen = with_crop(chosen, image_size);
  if (options.resize) set_resize(chosen, *options.resize);
  if (options.interpolation) chosen.interpolation = *options.interpolation;
  if (options.crop) set_crop(chosen, *options.crop);
  if (options.mean) set_mean(chosen, *options.mean);
  if (options.std) set_std(chosen, *options.std);
  return chosen;
}

}  // namespace engine

// From files to what the network sees: the preprocessing flags that verbs share, and the functions
// that prepare one sample for training or evaluation.
#pragma once

#include <optional>
#include <string>

#include "io/data/dataset.h"
#include "io/data/loader.h"
#include "io/images/augment.h"
#include "io/images/decode.h"
#include "io/images/preprocess.h"
#include "tools/cli/options.h"

namespace engine {

inline constexpr Choice<Interpolation> kInterpolations[] = {{"bilinear", Interpolation::bilinear},
                                                            {"bicubic", Interpolation::bicubic}};

struct PreprocessOptions {
  std::optional<std::string> resize, crop;
  std::optional<Interpolation> interpolation;

  void visit_preprocess(auto& v) {
    v.group("Preprocessing (default: the checkpoint's, else torchvision's for the model)");
    v("--resize N|HxW", resize, "shorter side, or both");
    v("--interpolation NAME", interpolation, "of the resize; antialiased, as PIL's",
      kInterpolations);
    v("--crop N", crop, "side of the centre crop that the network sees");
  }
};

// The same preprocessing for another side of the crop; the resize scales with it.
Preprocess with_crop(const Preprocess& preprocess, int crop);

// What the flags say, else what the checkpoint says, else the model's default. `image_size` (0: not
// given) sets the crop and scales the resize with it.
Preprocess choose_preprocess(const std::string& model, const std::optional<Preprocess>& checkpoint,
                             const PreprocessOptions& options, int image_size);

// `data` must outlive the function. With a pack, both start from its pictures; a resize that the
// pack has seen already changes nothing.
Prepare evaluation_input(const Dataset& data, const Preprocess& preprocess);
Prepare training_input(const Dataset& data, const Preprocess& preprocess,
                       const AugmentConfig& augment, bool fast_decode);

// For a data set whose pack is in device memory: what is done there with a sample. Evaluation is
// the preset `none`.
PrepareRecord record_input(const Dataset& data, const Preprocess& preprocess,
                           const AugmentConfig& augment);

// The image of a sample: with a pack as it is in there, else from memory or from its file.
Image read_sample(const Dataset& data, size_t index, int channels, DecodeOptions options = {});

}  // namespace engine

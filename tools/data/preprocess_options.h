// The preprocessing flags that verbs share.
#pragma once

#include <optional>
#include <string>

#include "io/images/preprocess.h"
#include "tools/cli/options.h"

namespace engine {

inline constexpr Choice<Interpolation> kInterpolations[] = {{"bilinear", Interpolation::bilinear},
                                                            {"bicubic", Interpolation::bicubic}};

struct PreprocessOptions {
  std::optional<std::string> resize, crop, mean, std;
  std::optional<Interpolation> interpolation;

  void visit_preprocess(auto& v) {
    v.group("Preprocessing (default: the checkpoint's, else torchvision's for the model)");
    v("--resize N|HxW", resize, "shorter side, or both");
    v("--interpolation NAME", interpolation, "of the resize; antialiased, as PIL's",
      kInterpolations);
    v("--crop N", crop, "side of the centre crop that the network sees");
    v("--mean A,B,C|none", mean, "subtracted from values in [0, 1], per channel; none: 0");
    v("--std A,B,C|none", std, "by which they are divided then; none: 1");
  }
};

// What the flags say, else what the checkpoint says, else the model's default. `image_size` (0: not
// given) sets the crop and scales the resize with it.
Preprocess choose_preprocess(const std::string& model, const std::optional<Preprocess>& checkpoint,
                             const PreprocessOptions& options, int image_size);

}  // namespace engine

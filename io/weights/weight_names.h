// Names of tensors: from what training scripts and other model zoos write to torchvision's, and to
// timm's.
#pragma once

#include <string_view>

#include "engine/tensor.h"

namespace engine {

// Takes `module.` (DataParallel) and `_orig_mod.` (torch.compile) off, as often as they appear.
void strip_prefixes(TensorFile& file);

// Old torchvision DenseNets (`norm.1` → `norm1`), timm's EfficientNets and MobileNetV2 (`conv_stem`,
// `blocks`) become today's torchvision names; other files stay as they are. `model` as in `--model`,
// or empty: told from the names.
// timm's tf_* ports are refused: they need TensorFlow's padding and another epsilon.
void normalise_names(TensorFile& file, std::string_view model);

// From torchvision's EfficientNets and MobileNetV2 to timm's; the other models have the same names.
void use_timm_names(TensorFile& file);

// Error(weights) if `name`, of a file, folder or architecture, is one of timm's tf_* ports.
void refuse_tensorflow_port(std::string_view name);

}  // namespace engine

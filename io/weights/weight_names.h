// Names of tensors: from those that training scripts and other model zoos write to torchvision's,
// and from these to timm's.
#pragma once

#include <string_view>

#include "engine/tensor.h"

namespace engine {

// Takes the prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile) off, as often as
// they appear.
void strip_prefixes(TensorFile& file);

// The names of old torchvision DenseNets (`norm.1` → `norm1`) and of timm's EfficientNets and
// MobileNetV2 (`conv_stem`, `blocks`) become today's torchvision names; other files stay as they
// are. `model` is as in `--model`; if it is empty the names tell the model. timm's tf_* ports are
// refused, because they need TensorFlow's padding and another epsilon.
void normalise_names(TensorFile& file, std::string_view model);

// Turns the names of torchvision's EfficientNets and MobileNetV2 into timm's; the other models have
// the same names in both.
void use_timm_names(TensorFile& file);

// Throws an Error(weights) if `name`, of a file, a folder or an architecture, is one of timm's tf_*
// ports.
void refuse_tensorflow_port(std::string_view name);

}  // namespace engine

// Names of tensors: from those that training scripts and other model zoos write to torchvision's,
// and from these to timm's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/tensor.h"

namespace engine {

// The metadata that holds the epsilon of a file's norms, where it may be another than torchvision's
// for the model: a decimal number.
inline constexpr char kNormEpsilon[] = "norm_epsilon";

// Takes off, as often as they appear, the prefixes `module.` (DataParallel), `_orig_mod.`
// (torch.compile), and `model.`, `net.` and `backbone.`, as modules call the network that they
// wrap. Two names that become one are an Error(weights).
void strip_prefixes(TensorFile& file);

// Takes out the tensors `n_averaged` (averages), `total_ops` and `total_params` (profilers), in
// whichever layer they are, and returns their names.
std::vector<std::string> drop_counters(TensorFile& file);

// The names of old torchvision DenseNets (`norm.1` → `norm1`) and of timm's EfficientNets, V2 too,
// and MobileNetV2 (`conv_stem`, `blocks`) become today's torchvision names; the metadata of the
// latter then say which epsilon timm's norms have. Other files stay as they are. `model` is as in
// `--model`; if it is empty the names tell the model. timm's tf_* ports are refused, because they
// need TensorFlow's padding.
void normalise_names(TensorFile& file, std::string_view model);

// Turns the names of torchvision's EfficientNets and MobileNetV2 into timm's; the other models have
// the same names in both. Where torchvision's norms have another epsilon than timm's (B5–B7, V2),
// the metadata say it.
void use_timm_names(TensorFile& file);

// Throws an Error(weights) if `name`, of a file, a folder or an architecture, is one of timm's tf_*
// ports.
void refuse_tensorflow_port(std::string_view name);

}  // namespace engine

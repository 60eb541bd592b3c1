// Files written by torch.save: zip archives and the older stream of pickles. Nothing in them is
// ever executed.
#pragma once

#include <filesystem>

#include "io/files/bytes.h"

namespace engine {

// The tensors of the state dict, dense and row-major, with the names that they have in the file.
// The state dict is the first of `state_dict`, `model`, `model_state_dict`, `model_ema` and
// `state_dict_ema` that is a dict with tensors, else the file's own dict. What is no tensor (epoch,
// optimizer) is left out; a text `arch` goes to the metadata. A malformed file is an
// Error(weights), which begins with `path`.
TensorFile read_pth(const std::filesystem::path& path);
TensorFile parse_pth(Bytes bytes, const std::string& path);

}  // namespace engine

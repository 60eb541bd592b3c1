// Files written by torch.save: zip archives and the older stream of pickles. Nothing in them is
// ever executed.
#pragma once

#include <filesystem>

#include "io/files/bytes.h"

namespace engine {

// The tensors of the state dict, dense and row-major. It is the first of these that is a dict with
// tensors: `state_dict`, `model`, `model_state_dict`, `model_ema`, `state_dict_ema`; else the
// file's own dict. What is no tensor (epoch, optimizer) is left out; a text `arch` goes to the
// metadata. Names are as in the file.
TensorFile read_pth(const std::filesystem::path& path);
TensorFile parse_pth(Bytes bytes, const std::string& path);  // `path` is for messages

}  // namespace engine

// Files written by torch.save: zip archives and the older stream of pickles. Nothing in them is
// ever executed.
#pragma once

#include <filesystem>

#include "io/files/bytes.h"
#include "io/weights/state_dict.h"

namespace engine {

// The tensors of the state dict (find_state_dict), dense and row-major, with the names that they
// have in the file. What is no tensor (epoch, optimizer) is left out; a text `arch` goes to the
// metadata. A malformed file, or one that describes far more bytes than it has, is an
// Error(weights), which begins with `path`.
TensorFile read_pth(const std::filesystem::path& path, const ReadOptions& options = {});
TensorFile parse_pth(Bytes bytes, const std::string& path, const ReadOptions& options = {});

}  // namespace engine

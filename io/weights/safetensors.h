// The safetensors format: an 8-byte length, a JSON header, then the tensors' bytes.
#pragma once

#include <filesystem>

#include "io/files/bytes.h"

namespace engine {

// Both are strict: what the format forbids (holes, overlaps, duplicate names, trailing bytes, …) is
// an Error(weights) that names the file (`path`), the tensor and the numbers.
TensorFile read_safetensors(const std::filesystem::path& path);
TensorFile parse_safetensors(Bytes bytes, const std::string& path);

// Writes the file atomically. Tensors lie by falling element size, then by name, each aligned to
// its element; `format` = `pt` is added to the metadata, so that PyTorch's tools open the file.
void write_safetensors(const std::filesystem::path& path, const TensorFile& file);

}  // namespace engine

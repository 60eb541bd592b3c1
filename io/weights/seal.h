// The SHA-256 of a weight file's contents, in its own metadata: a file that was damaged, or changed
// by a program that left the metadata alone, is told from the one that was written.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "engine/tensor.h"
#include "io/files/checksum.h"

namespace engine {

struct NamedTensor {
  std::string name;
  const Tensor* tensor;
};

// Adds a line for each tensor, of its name, type, shape and the SHA-256 of its bytes. Up to 16
// threads do it: hashing must not hold up training.
void hash_tensors(Sha256& hash, std::span<const NamedTensor> tensors);

// Writes a safetensors file whose metadata has the digest of all tensors, with names, types and
// shapes, and of the other metadata.
void write_sealed(const std::filesystem::path& path, TensorFile file);

// Compares a file's digest, if it has one, and takes it out of the metadata: whoever changes the
// tensors has another file. Error(weights) if it is not that of the contents.
void check_seal(TensorFile& file, const std::filesystem::path& path);

}  // namespace engine

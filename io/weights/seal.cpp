#include "io/weights/seal.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "engine/error.h"
#include "engine/parallel.h"
#include "io/files/bytes.h"
#include "io/weights/safetensors.h"

namespace engine {
namespace {

constexpr char kSeal[] = "contents_sha256";

std::string digest_of(const TensorFile& file) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : file.tensors) tensors.push_back({name, &tensor});
  Sha256 hash;
  hash_tensors(hash, tensors);
  for (const auto& [name, text] : file.metadata)
    if (name != kSeal && name != "format")  // write_safetensors() adds "format"
      hash.update(as_bytes(fmt::format("{} {} {}{}\n", name.size(), text.size(), name, text)));
  return hash.finish();
}

}  // namespace

void hash_tensors(Sha256& hash, std::span<const NamedTensor> tensors) {
  std::vector<std::string> digests(tensors.size());
  const auto threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
  parallel_for(tensors.size(), {.threads = threads},
               [&](size_t i) { digests[i] = sha256(tensors[i].tensor->bytes); });
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = *tensors[i].tensor;
    hash.update(as_bytes(fmt::format("{} {} {} {}\n", tensors[i].name, name_of(t.dtype),
                                     to_string(t.shape), digests[i])));
  }
}

void write_sealed(const std::filesystem::path& path, TensorFile file) {
  file.metadata[kSeal] = digest_of(file);
  write_safetensors(path, file);
}

void check_seal(TensorFile& file, const std::filesystem::path& path) {
  const auto seal = file.metadata.find(kSeal);
  if (seal == file.metadata.end()) return;
  require(seal->second == digest_of(file), Failure::weights,
          "{}: damaged or changed: its contents do not have the SHA-256 they were written with",
          path.string());
  file.metadata.erase(seal);
}

}  // namespace engine

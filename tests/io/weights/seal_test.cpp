// A weight file that says its own SHA-256: what is damaged is refused.
#include "io/weights/seal.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "io/weights/safetensors.h"
#include "io/weights/weights.h"
#include "tests/io/weights/weight_file_support.h"

using namespace engine;
using namespace engine::test;

namespace {

TensorFile example() {
  TensorFile file{.metadata = {{"classes", R"(["a","b"])"}}};
  for (const char* name : {"weight", "bias"}) {
    Tensor tensor(DType::f32, {2, 3});
    for (size_t i = 0; i < 6; ++i) tensor.as<float>()[i] = 0.5f + static_cast<float>(i);
    file.tensors[name] = std::move(tensor);
  }
  return file;
}

bool is_example(const TensorFile& file) {
  if (file.tensors.size() != 2 || file.metadata.at("classes") != R"(["a","b"])") return false;
  return std::ranges::all_of(file.tensors, [](const auto& named) {
    return named.second.shape == Shape{2, 3} &&
           named.second.bytes == example().tensors.at(named.first).bytes;
  });
}

}  // namespace

TEST_CASE("no flipped bit of a sealed file goes unnoticed") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sealed.safetensors";
  write_sealed(path, example());
  CHECK(is_example(read_weights(path)));
  CHECK_FALSE(read_weights(path).metadata.contains("contents_sha256"));
  const std::string bytes = file_text(path);
  size_t refused = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
    write_bytes(path, changed);
    CAPTURE(at);
    bool as_before = false;  // the digest's own name, and spaces, say nothing of the contents
    try {
      as_before = is_example(read_weights(path));
    } catch (const Error& error) {
      CHECK(error.kind == Failure::weights);
      ++refused;
      continue;
    }
    CHECK(as_before);
  }
  CHECK(refused > bytes.size() * 8 / 10);
}

TEST_CASE("a file without a seal is read, and one whose tensors were changed behind it is not") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "file.safetensors";
  write_safetensors(path, example());
  CHECK(is_example(read_weights(path)));
  write_sealed(path, example());
  TensorFile changed = read_safetensors(path);  // with the seal, as another program keeps it
  changed.tensors.at("bias").as<float>()[0] = 7;
  write_safetensors(path, changed);
  CHECK(contains(weights_error(path, [&] { read_weights(path); }), "damaged or changed"));
}

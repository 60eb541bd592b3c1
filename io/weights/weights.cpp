#include "io/weights/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <system_error>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/weights/faults.h"
#include "io/weights/pth.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"
#include "io/weights/weight_names.h"

namespace engine {
namespace {

// This is enough to tell the kinds apart: safetensors has '{' after its length, which is eight
// bytes whose last four are zero. Its first byte may be any, also that of a pickle.
std::string first_bytes(const std::filesystem::path& path) {
  std::string bytes(9, '\0');
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), Failure::weights, "{}: {}", path.string(), std::strerror(errno));
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

TensorFile read_any(const std::filesystem::path& path, const ReadOptions& options) {
  std::error_code error;
  const bool regular = std::filesystem::is_regular_file(path, error);
  if (error && error != std::errc::no_such_file_or_directory)
    fail(Failure::weights, "{}: {}", path.string(), error.message());
  require(regular, Failure::weights, "{}: no such file", path.string());
  const std::string magic = first_bytes(path);
  require(!magic.empty(), Failure::weights, "{}: the file is empty", path.string());
  if (magic.ends_with(std::string_view("\0\0\0\0{", 5))) {
    require(options.key.empty(), Failure::usage,
            "--weights-key {}: {} is a safetensors file, which has no members", options.key,
            path.string());
    return read_safetensors(path);
  }
  if (magic.starts_with("PK") || magic.starts_with('\x80')) return read_pth(path, options);
  fail(Failure::weights, "{}: neither safetensors nor written by torch.save (starts with {:02x})",
       path.string(), fmt::join(as_bytes(magic).first(std::min<size_t>(magic.size(), 8)), " "));
}

bool differs_only_in_classes(const Shape& a, const Shape& b) {
  return a.size() == b.size() && !a.empty() && std::equal(a.begin() + 1, a.end(), b.begin() + 1);
}

// Says "2 missing (a, b)", and nothing of an empty list.
void describe(std::vector<std::string>& report, std::string_view what,
              const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  if (names.empty()) return;
  report.push_back(
      fmt::format("{} {} ({}{})", names.size(), what,
                  fmt::join(std::span(names).first(std::min(names.size(), kShown)), ", "),
                  names.size() > kShown ? ", …" : ""));
}

}  // namespace

TensorFile read_weights(const std::filesystem::path& path, const ReadOptions& options) {
  // Downloads from the Hub are called `model.safetensors`, in a folder with the model's name.
  refuse_tensorflow_port(path.filename().string());
  refuse_tensorflow_port(path.parent_path().filename().string());
  TensorFile file = read_any(path, options);
  check_seal(file, path);
  strip_prefixes(file);
  if (const std::vector<std::string> dropped = drop_counters(file); !dropped.empty())
    options.say(fmt::format("{}: passes over {} counters of averages and profilers ({}{})",
                            path.string(), dropped.size(), dropped.front(),
                            dropped.size() > 1 ? ", …" : ""));
  const std::optional<std::string> fault = fault_in(file.tensors);
  require(!fault, Failure::weights, "{}: {}", path.string(), fault.value_or(""));
  return file;
}

int64_t count_parameters(const TensorFile& file) {
  int64_t count = 0;
  for (const auto& [name, tensor] : file.tensors)
    if (!name.ends_with("running_mean") && !name.ends_with("running_var") &&
        !name.ends_with("num_batches_tracked"))
      count += tensor.size();
  return count;
}

Matched match_weights(const TensorFile& file, std::span<const Expected> model,
                      const std::filesystem::path& path) {
  Matched matched;
  std::vector<std::string> missing, unexpected, misshaped;
  std::set<std::string_view> known;
  const bool headless = std::ranges::none_of(model, [&](const Expected& expected) {
    return expected.head && file.tensors.contains(expected.name);
  });
  for (const Expected& expected : model) {
    known.insert(expected.name);
    const auto found = file.tensors.find(expected.name);
    if (found == file.tensors.end()) {
      if (expected.head && headless)
        matched.reinitialised.push_back(expected.name);
      else if (!expected.optional)
        missing.push_back(expected.name);
      continue;
    }
    const Shape& shape = found->second.shape;
    if (shape == expected.shape) continue;
    if (expected.head && differs_only_in_classes(shape, expected.shape)) {
      matched.reinitialised.push_back(expected.name);
    } else {
      misshaped.push_back(fmt::format("{}: file {}, model {}", expected.name, to_string(shape),
                                      to_string(expected.shape)));
    }
  }
  for (const auto& [name, tensor] : file.tensors)
    if (!known.contains(name)) unexpected.push_back(name);
  std::vector<std::string> report;
  describe(report, "missing", missing);
  describe(report, "unexpected", unexpected);
  describe(report, "misshaped", misshaped);
  require(report.empty(), Failure::weights, "{}: does not fit the model: {}", path.string(),
          fmt::join(report, "; "));
  return matched;
}

}  // namespace engine

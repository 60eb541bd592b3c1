#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "engine/error.h"
#include "io/data/idx.h"
#include "io/data/pack.h"
#include "io/data/pack_format.h"
#include "io/data/presence.h"
#include "io/files/csv.h"
#include "io/images/decode.h"
#include "io/images/exif.h"
#include "io/images/inspect.h"
#include "io/weights/manifest.h"
#include "io/weights/pth.h"
#include "io/weights/safetensors.h"
#include "io/weights/weights.h"
#include "tools/cli/options.h"
#include "tools/cli/yaml.h"
#include "tools/score/metadata.h"
#include "tools/train/checkpoint.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;

// What parsers throw for bytes that are wrong; anything else escapes.
template <class Action>
void expecting_errors(Action action) {
  try {
    action();
  } catch (const Error&) {
  }
}

// A file without a folder, for parsers that take a path.
class MemoryFile {
 public:
  explicit MemoryFile(Bytes bytes) : descriptor_(memfd_create("fuzz", 0)) {
    require(descriptor_ >= 0, Failure::internal, "no file in memory: {}", std::strerror(errno));
    const auto written = write(descriptor_, bytes.data(), bytes.size());
    require(written == ssize_t(bytes.size()), Failure::internal, "a file in memory ends early");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(descriptor_); }

  fs::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }
  int duplicate() const { return dup(descriptor_); }

 private:
  int descriptor_;
};

// ---------------------------------------------------------------- images

constexpr int64_t kMostPixels = 1 << 22;  // larger pictures are slow, and nothing else

void run_image(Bytes bytes) {
  const char* name = "image";
  bool large = false;
  expecting_errors([&] {
    const ImageInfo info = inspect_image(bytes, name);
    large = int64_t{info.width} * info.height > kMostPixels;
  });
  if (large) return;
  expecting_errors([&] { decode(bytes, name, 3); });
  expecting_errors([&] { decode(bytes, name, 1, {.reduce_to = 4}); });
  expecting_errors([&] {
    decode_part(bytes, name, 3, {}, [&](int width, int height) {
      const int left = width * std::to_integer<int>(bytes.front()) / 256,
                top = height * std::to_integer<int>(bytes.back()) / 256;
      return CropWindow{left, top, std::max(1, (width - left) / 2), std::max(1, height - top)};
    });
  });
}

void run_exif(Bytes bytes) {
  const int orientations[] = {exif_orientation(bytes).value_or(1), picture_orientation(bytes, {}),
                              picture_orientation({}, bytes)};
  for (const int o : orientations)
    require(o >= 1 && o <= 8, Failure::internal, "orientation {}", o);
}

// ---------------------------------------------------------------- weights

void run_safetensors(Bytes bytes) {
  expecting_errors([&] {
    const TensorFile file = parse_safetensors(bytes, "file");
    names_from_json(file.metadata.contains("classes") ? file.metadata.at("classes") : "", "file");
  });
}

void run_pth(Bytes bytes) {
  expecting_errors([&] { parse_pth(bytes, "file"); });
  expecting_errors([&] { parse_pth(bytes, "file", {.key = "model"}); });
}

void run_weights(Bytes bytes) {
  const MemoryFile file(bytes);
  expecting_errors([&] { count_parameters(read_weights(file.path())); });
}

void run_manifest(Bytes bytes) {
  const MemoryFile file(bytes);
  expecting_errors([&] { read_manifest(file.path()); });
}

void run_checkpoint(Bytes bytes) {
  const MemoryFile file(bytes);
  expecting_errors([&] { read_checkpoint(file.path()); });
}

// The texts of a checkpoint, without the digests that keep damage out: one on each line.
void run_metadata(Bytes bytes) {
  constexpr const char* kNames[] = {"classes", "preprocess",   "model",       "images",
                                    "batches", "recipe",       "image_sizes", "image_contents",
                                    "cache",   "norm_epsilon", "temperature", "thresholds"};
  std::string_view text = as_text(bytes);
  std::map<std::string, std::string> metadata;
  for (const char* name : kNames) {
    const size_t end = std::min(text.find('\n'), text.size());
    metadata[name] = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  expecting_errors([&] { names_from_json(metadata["classes"], "file"); });
  expecting_errors([&] { preprocess_from_json(metadata["preprocess"]); });
  expecting_errors([&] { decisions_of({{kTemperature, metadata["temperature"]}}, "file"); });
  expecting_errors([&] { decisions_of({{kThresholds, metadata["thresholds"]}}, "file"); });
  expecting_errors([&] { decisions_of({{kReject, metadata["thresholds"]}}, "file"); });
  expecting_errors([&] { task_of({{kTask, metadata["thresholds"]}}, "file"); });
  expecting_errors([&] { run_identity_from(metadata, "file"); });
}

// ---------------------------------------------------------------- data sets

void run_idx(Bytes bytes) {
  const MemoryFile file(bytes);
  expecting_errors([&] { read_idx_images(file.path()); });
  expecting_errors([&] { read_idx_labels(file.path()); });
}

void run_csv(Bytes bytes) {
  expecting_errors([&] { parse_csv(as_text(bytes), "file"); });
  const auto where = [] { return std::string("file"); };
  expecting_errors([&] { parse_label_list(as_text(bytes), "|", where); });
  expecting_errors([&] { parse_presence(as_text(bytes), where); });
}

// The header's and the index's checksums are made to be right, so that what they guard is reached.
std::vector<std::byte> with_checksums(Bytes bytes) {
  std::vector<std::byte> pack(bytes.begin(), bytes.end());
  if (pack.size() < kPackPixels) return pack;
  PackHeader header;
  std::memcpy(&header, pack.data(), sizeof header);
  if (header.index_offset <= pack.size() && header.index_bytes <= pack.size() - header.index_offset)
    header.index_checksum = xxh64(Bytes(pack).subspan(header.index_offset, header.index_bytes));
  header.checksum = header.own_checksum();
  std::memcpy(pack.data(), &header, sizeof header);
  return pack;
}

void run_pack(Bytes bytes) {
  const MemoryFile file(with_checksums(bytes));
  expecting_errors([&] {
    const auto pack = map_pack(file.duplicate(), "");
    for (size_t i = 0; i < pack->size(); ++i) pack->image(i);  // reads all pixels
  });
}

// ---------------------------------------------------------------- the command line

enum class Colours { red, green };
constexpr Choice<Colours> kColours[] = {{"red", Colours::red}, {"green", Colours::green}};

// A field of each kind.
struct EveryOption {
  bool on = false;
  int count = 1;
  uint64_t seed = 0;
  float rate = 0;
  std::string text;
  fs::path file;
  std::optional<double> maybe;
  std::vector<std::string> files;
  Colours colour = Colours::red;
  void visit(auto& v) {
    v("FILES", files, "files");
    v("-o, --on", on, "a switch");
    v("-c, --count N", count, "a number", Within{1, 64});
    v("--seed N", seed, "a large number");
    v("--rate X", rate, "a fraction", Within{0, 1});
    v("--text X", text, "a text");
    v("--file FILE", file, "a path");
    v("--maybe X", maybe, "a number or none");
    v("--colour X", colour, "one of two", kColours);
  }
};

void run_config(Bytes bytes) {
  expecting_errors([&] {
    EveryOption options;
    const Flags flags(options);
    parse_flags(flags, {}, Config{std::string(as_text(bytes)), "file"});
    to_json(flags);
  });
}

void run_yaml(Bytes bytes) {
  expecting_errors([&] {
    EveryOption options;
    const std::string json = json_from_yaml(std::string(as_text(bytes)), "file");
    parse_flags(Flags(options), {}, Config{json, "file"});
  });
}

void run_command_line(Bytes bytes) {
  std::vector<std::string> words(1);
  for (const char c : as_text(bytes)) {
    if (c == '\n')
      words.emplace_back();
    else
      words.back() += c;
  }
  expecting_errors([&] {
    EveryOption options;
    const Flags flags(options);
    parse_flags(flags, words);
    to_json(flags);
  });
}

constexpr FuzzTarget kTargets[] = {
    {"jpeg", run_image},
    {"png", run_image},
    {"images", run_image},
    {"exif", run_exif},
    {"safetensors", run_safetensors},
    {"pth", run_pth},
    {"weights", run_weights},
    {"manifest", run_manifest},
    {"checkpoint", run_checkpoint},
    {"metadata", run_metadata},
    {"pack", run_pack},
    {"idx", run_idx},
    {"csv", run_csv},
    {"config", run_config},
    {"yaml", run_yaml},
    {"command_line", run_command_line},
};

}  // namespace

std::span<const FuzzTarget> fuzz_targets() {
  return kTargets;
}

const FuzzTarget* fuzz_target(std::string_view name) {
  const auto* found = std::ranges::find(kTargets, name, &FuzzTarget::name);
  return found == std::end(kTargets) ? nullptr : found;
}

}  // namespace engine::test

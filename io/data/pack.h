// Packs: pictures decoded and resized once, as uint8, so that epochs need to do neither. A pack is
// in memory or in one memory-mapped file that several processes share. What it holds does not
// depend on labels, splits or augmentation. Which kind a run uses is decided in tools/.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/parallel.h"
#include "io/data/dataset.h"
#include "io/images/image.h"
#include "io/images/preprocess.h"

namespace engine {

// Of a picture that is longer than this many times its shorter side, a pack of resized pictures has
// the middle, with which a centre crop is what it was; else one thin picture would fill the memory.
inline constexpr int kMostElongated = 16;

// What was done to each picture: the resize of Preprocess, or nothing if resize_height is 0.
struct PackSpec {
  int resize_height = 0, resize_width = 0;
  Interpolation interpolation = Interpolation::bilinear;
  int channels = 3;

  bool operator==(const PackSpec&) const = default;
};
PackSpec pack_spec(const Preprocess& preprocess);
std::string describe(const PackSpec& spec);  // "shorter side 256, bilinear, RGB"

// Whether a picture from such a pack is what `preprocess`'s resize makes of the file, bit for bit,
// as far as kMostElongated allows.
bool already_resized(const PackSpec& spec, const Preprocess& preprocess);

// A decoded picture as a pack stores it.
Image pack_image(Image decoded, const PackSpec& spec);

// One picture to put into a pack: a file, or a picture in memory that came from that file.
struct PackSource {
  std::string path;
  const Image* image = nullptr;
};
// The pictures of several data sets, each once, in their order.
std::vector<PackSource> pack_sources(std::span<const Dataset* const> data);

class Pack {
 public:
  struct Record {
    uint64_t offset = 0;            // where the pixels begin in pixels(); a multiple of 64
    int32_t width = 0, height = 0;  // pixels
    uint64_t checksum = 0;          // XXH64 of the pixels
    uint64_t content = 0;           // XXH64 of the source file
    uint64_t size = 0;              // bytes of the source file
    int64_t modified = 0;           // when the source file was modified, in ns since 1970

    size_t bytes(int channels) const { return size_t(width) * height * channels; }
    bool readable() const { return width > 0; }
  };

  ~Pack();
  Pack(const Pack&) = delete;
  Pack& operator=(const Pack&) = delete;

  size_t size() const { return records_.size(); }
  const PackSpec& spec() const { return spec_; }
  const Record& record(size_t i) const { return records_[i]; }
  const std::string& path(size_t i) const { return paths_[i]; }
  // All pictures, with gaps between them, for instance to copy them to a device.
  std::span<const uint8_t> pixels() const;
  // Empty for a pack in memory.
  const std::filesystem::path& file() const { return file_; }

  // Picture i. There is none where its source could not be read or its pixels are damaged, which is
  // checked when the picture is first asked for; the source is to be read instead. A damaged file
  // is removed, so that the next run makes a new one. Any thread may call this. Error(data) if the
  // file was cut short meanwhile.
  std::optional<ImageView> image(size_t i) const;
  std::vector<size_t> damaged() const;  // the damaged pictures found so far

 private:
  friend std::shared_ptr<const Pack> map_pack(int descriptor, const std::filesystem::path& file);
  Pack() = default;
  void read_index();

  PackSpec spec_;
  std::vector<Record> records_;
  std::vector<std::string> paths_;
  std::filesystem::path file_;
  int descriptor_ = -1;
  const std::byte* base_ = nullptr;                    // where the file is mapped
  size_t bytes_ = 0;                                   // of the whole file
  mutable std::vector<std::atomic<uint8_t>> checked_;  // 0: not yet, 1: good, 2: damaged
};

// Takes over the descriptor of a whole pack; `file` is empty for one in memory.
std::shared_ptr<const Pack> map_pack(int descriptor, const std::filesystem::path& file);

struct PackOptions {
  ParallelOptions parallel;
  // A picture that cannot be read becomes a record without pixels instead of an Error.
  bool allow_unreadable = false;
  std::function<void(std::string_view line)> say;  // tells people what happens; may be empty
};

// Makes a pack in memory: in an anonymous file, which is shared on fork and mapped like one on
// disk.
std::shared_ptr<const Pack> build_pack(std::span<const PackSource> sources, const PackSpec& spec,
                                       const PackOptions& options);

// Opens the pack in `file` if it holds all the sources unchanged, else makes a new one in its
// place. The new one is written to a temporary file beside it, synced and renamed; meanwhile
// FILE.lock is locked, and another process that needs the same pack waits.
std::shared_ptr<const Pack> open_or_build_pack(const std::filesystem::path& file,
                                               std::span<const PackSource> sources,
                                               const PackSpec& spec, const PackOptions& options);

// Opens a pack. Error(data) if the file is missing, truncated, of another version, or its index is
// damaged.
std::shared_ptr<const Pack> open_pack(const std::filesystem::path& file);

// Why the pack cannot serve the sources, or nothing if it can: pictures are missing, or files have
// another size, or another time and content.
std::optional<std::string> mismatch(const Pack& pack, std::span<const PackSource> sources,
                                    const PackSpec& spec, const ParallelOptions& parallel);

// An estimate of the bytes that such a pack takes. Up to `probes` pictures, spread over the
// sources, are decoded for it.
uint64_t estimate_pack(std::span<const PackSource> sources, const PackSpec& spec,
                       const ParallelOptions& parallel, size_t probes = 256);

// The samples whose picture could not be read when the pack was made; none without a pack.
std::vector<uint32_t> unreadable_in_pack(const Dataset& data);

// Lets the data sets' samples be read from the pack, which holds all of them.
void attach_pack(std::shared_ptr<const Pack> pack, std::span<Dataset* const> data);

}  // namespace engine

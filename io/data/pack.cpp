#include "io/data/pack.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "engine/error.h"
#include "io/data/pack_format.h"
#include "io/data/source_file.h"
#include "io/images/decode.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

std::unordered_map<std::string_view, uint32_t> positions(const Pack& pack) {
  std::unordered_map<std::string_view, uint32_t> found;
  for (size_t i = 0; i < pack.size(); ++i) found.emplace(pack.path(i), static_cast<uint32_t>(i));
  return found;
}

// Reads the values of an index in order and never beyond its end.
class IndexReader {
 public:
  IndexReader(std::span<const std::byte> bytes, const fs::path& file)
      : bytes_(bytes), file_(file) {}

  std::span<const std::byte> take(size_t count) {
    require(count <= bytes_.size(), Failure::data, "{}: the pack's index ends early",
            file_.string());
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  const fs::path& file_;
};

}  // namespace

// ---------------------------------------------------------------- what is in a pack

namespace {

struct Stretch {
  int first, count;
};

// The middle of a side, `longest` samples or some more. An even number goes at each end, so that a
// centre crop, which rounds half to even, takes the same samples as before.
Stretch middle(int side, int longest) {
  const int cut = side <= longest ? 0 : (side - longest) / 4 * 2;
  return {cut, side - 2 * cut};
}

}  // namespace

PackSpec pack_spec(const Preprocess& p) {
  return {.resize_height = p.resize_height,
          .resize_width = p.resize_width,
          .interpolation = p.interpolation,
          .channels = p.channels};
}

std::string describe(const PackSpec& spec) {
  const char* colour = spec.channels == 1 ? "gray" : "RGB";
  if (spec.resize_height == 0) return fmt::format("full size, {}", colour);
  const std::string size = spec.resize_width == 0
                               ? fmt::format("shorter side {}", spec.resize_height)
                               : fmt::format("{}x{}", spec.resize_height, spec.resize_width);
  return fmt::format("{}, {}, {}", size, to_string(spec.interpolation), colour);
}

bool already_resized(const PackSpec& spec, const Preprocess& preprocess) {
  return spec == pack_spec(preprocess);
}

Image pack_image(Image decoded, const PackSpec& spec) {
  decoded = convert_channels(std::move(decoded), spec.channels);
  if (spec.resize_height == 0) return decoded;
  const Size to =
      resized_size(decoded.width, decoded.height,
                   {.resize_height = spec.resize_height, .resize_width = spec.resize_width});
  const int longest = kMostElongated * std::min(to.width, to.height);
  const auto [left, width] = middle(to.width, longest);
  const auto [top, height] = middle(to.height, longest);
  return resample(
      view_of(decoded), 0, 0,
      {{0, 0, decoded.width, decoded.height}, to.width, to.height, {left, top, width, height}},
      spec.interpolation);
}

std::vector<PackSource> pack_sources(std::span<const Dataset* const> data) {
  std::vector<PackSource> sources;
  std::unordered_set<std::string_view> seen;
  for (const Dataset* set : data)
    for (size_t i = 0; i < set->samples.size(); ++i)
      if (seen.insert(set->samples[i].path).second)
        sources.push_back({set->samples[i].path, set->images.empty() ? nullptr : &set->images[i]});
  return sources;
}

std::vector<uint32_t> unreadable_in_pack(const Dataset& data) {
  std::vector<uint32_t> found;
  for (uint32_t i = 0; data.pack && i < data.samples.size(); ++i)
    if (!data.pack->record(data.records[i]).readable()) found.push_back(i);
  return found;
}

void attach_pack(std::shared_ptr<const Pack> pack, std::span<Dataset* const> data) {
  const auto position = positions(*pack);
  for (Dataset* set : data) {
    set->records.clear();
    for (const Sample& sample : set->samples) {
      const auto found = position.find(sample.path);
      require(found != position.end(), Failure::internal, "{}: not in the pack", sample.path);
      set->records.push_back(found->second);
    }
    set->pack = pack;
  }
}

std::optional<std::string> mismatch(const Pack& pack, std::span<const PackSource> sources,
                                    const PackSpec& spec, const ParallelOptions& parallel) {
  if (pack.spec() != spec)
    return fmt::format("it holds {}, wanted is {}", describe(pack.spec()), describe(spec));
  const auto position = positions(pack);
  std::vector<std::string> changes(sources.size());
  parallel_for(sources.size(), parallel, [&](size_t i) {
    const auto found = position.find(sources[i].path);
    if (found == position.end()) {
      changes[i] = fmt::format("{} is not in it", sources[i].path);
      return;
    }
    const Pack::Record& record = pack.record(found->second);
    const SourceFile now = source_file(sources[i]);
    if (now.size != record.size)
      changes[i] =
          fmt::format("{} had {} bytes and has {}", sources[i].path, record.size, now.size);
    else if (now.modified != record.modified && content_hash(sources[i]) != record.content)
      changes[i] = fmt::format("{} has changed", sources[i].path);
  });
  const size_t changed = changes.size() - std::ranges::count(changes, std::string());
  if (changed == 0) return std::nullopt;
  const std::string& first = *std::ranges::find_if(changes, [](auto& c) { return !c.empty(); });
  return changed == 1 ? first : fmt::format("{}, and {} more differ", first, changed - 1);
}

uint64_t estimate_pack(std::span<const PackSource> sources, const PackSpec& spec,
                       const ParallelOptions& parallel, size_t probes) {
  const size_t count = std::min(probes, sources.size());
  std::atomic<uint64_t> bytes = 0, read = 0;
  parallel_for(count, parallel, [&](size_t i) {
    const PackSource& source = sources[i * sources.size() / count];
    try {
      bytes +=
          pack_image(read_source(source, spec.channels).image, spec).pixels.size() + kPackAlignment;
      ++read;
    } catch (const Error& error) {
      if (error.kind != Failure::data) throw;
    }
  });
  constexpr uint64_t kIndexEntry = 256;  // bytes: more than a record and a common path take
  return read == 0 ? 0 : (bytes / read + kIndexEntry) * sources.size();
}

// ---------------------------------------------------------------- reading a pack

Pack::~Pack() {
  if (base_) munmap(const_cast<std::byte*>(base_), bytes_);
  if (descriptor_ >= 0) close(descriptor_);
}

std::span<const uint8_t> Pack::pixels() const {
  const auto* first = reinterpret_cast<const uint8_t*>(base_);
  PackHeader header;
  std::memcpy(&header, base_, sizeof header);
  return {first + kPackPixels, first + header.index_offset};
}

std::shared_ptr<const Pack> map_pack(int descriptor, const fs::path& file) {
  const std::shared_ptr<Pack> pack(new Pack);
  pack->descriptor_ = descriptor;
  pack->file_ = file;
  struct stat status;
  require(fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode), Failure::data,
          "{}: not a regular file", file.string());
  pack->bytes_ = static_cast<size_t>(status.st_size);
  require(pack->bytes_ >= kPackPixels, Failure::data, "{}: {} bytes are too few for a pack",
          file.string(), pack->bytes_);
  void* base = mmap(nullptr, pack->bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
  require(base != MAP_FAILED, Failure::data, "{}: cannot map: {}", file.string(),
          std::strerror(errno));
  pack->base_ = static_cast<const std::byte*>(base);
  pack->read_index();
  return pack;
}

void Pack::read_index() {
  const auto check = [&](bool good, const char* what) {
    require(good, Failure::data, "{}: {}", file_.string(), what);
  };
  PackHeader header;
  std::memcpy(&header, base_, sizeof header);
  check(std::memcmp(header.magic, kPackMagic, sizeof kPackMagic) == 0, "not a pack");
  require(header.version == kPackVersion, Failure::data,
          "{}: a pack of version {}, this program reads {}", file_.string(), header.version,
          kPackVersion);
  check(header.checksum == header.own_checksum(), "the pack's header is damaged");
  const uint64_t end = header.index_offset + header.index_bytes;
  require(end == bytes_ && header.index_offset >= kPackPixels && header.index_bytes <= bytes_,
          Failure::data, "{}: a truncated pack, {} of {} bytes", file_.string(), bytes_, end);
  const std::span index(base_ + header.index_offset, header.index_bytes);
  check(xxh64(index) == header.index_checksum, "the pack's index is damaged");

  spec_ = {.resize_height = header.resize_height,
           .resize_width = header.resize_width,
           .interpolation = static_cast<Interpolation>(header.interpolation),
           .channels = header.channels};
  check(spec_.channels == 1 || spec_.channels == 3, "a pack of pictures without known channels");
  IndexReader in(index, file_);
  check(header.count > 0, "a pack without pictures");
  check(header.count <= index.size() / sizeof(Record), "the pack's index ends early");
  records_.resize(header.count);
  std::memcpy(records_.data(), in.take(header.count * sizeof(Record)).data(),
              header.count * sizeof(Record));
  for (const Record& r : records_) {
    const uint64_t room = header.index_offset - kPackPixels;
    check(r.width >= 0 && r.height >= 0 && r.offset <= room &&
              r.bytes(spec_.channels) <= room - r.offset,
          "a picture lies outside of the pack");
    const auto path = in.take(in.read<uint32_t>());
    paths_.emplace_back(reinterpret_cast<const char*>(path.data()), path.size());
  }
  checked_ = std::vector<std::atomic<uint8_t>>(records_.size());
}

std::shared_ptr<const Pack> open_pack(const fs::path& file) {
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  require(descriptor >= 0, Failure::data, "{}: {}", file.string(), std::strerror(errno));
  return map_pack(descriptor, file);
}

std::optional<ImageView> Pack::image(size_t i) const {
  const Record& r = records_[i];
  if (!r.readable()) return std::nullopt;
  if (!file_.empty()) {  // touching pages beyond the end of a file would end the process
    struct stat status;
    require(fstat(descriptor_, &status) == 0 && static_cast<size_t>(status.st_size) >= bytes_,
            Failure::data, "{}: the pack was cut short while in use", file_.string());
  }
  const std::byte* at = base_ + kPackPixels + r.offset;
  if (checked_[i] == 0) {
    const bool good = xxh64({at, r.bytes(spec_.channels)}) == r.checksum;
    std::error_code ignored;
    if (checked_[i].exchange(good ? 1 : 2) == 0 && !good && !file_.empty())
      fs::remove(file_, ignored);
  }
  if (checked_[i] == 2) return std::nullopt;
  return ImageView{reinterpret_cast<const uint8_t*>(at), r.width, r.height, spec_.channels};
}

std::vector<size_t> Pack::damaged() const {
  std::vector<size_t> found;
  for (size_t i = 0; i < checked_.size(); ++i)
    if (checked_[i] == 2) found.push_back(i);
  return found;
}

}  // namespace engine

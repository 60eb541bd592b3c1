#include "io/data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>
#include <system_error>

#include "engine/error.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kLabelMagic = 0x801,
                   kImageMagic = 0x803;  // unsigned bytes in one and in three dimensions
constexpr uint32_t kMaxSide = 4096;      // pixels; bounds what a hostile header can allocate

// Reads a plain or a gzip file from its beginning to its end; zlib tells the two apart.
class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path.string()), file_(gzopen(path_.c_str(), "rb")) {
    require(file_ != nullptr, Failure::data, "{}: {}", path_,
            std::generic_category().message(errno));
  }

  void read(std::span<uint8_t> bytes) {
    const int got = gzread(file_.get(), bytes.data(), static_cast<unsigned>(bytes.size()));
    check();
    offset_ += got;
    require(size_t(got) == bytes.size(), Failure::data,
            "{}: ends after {} bytes, its header promises more", path_, offset_);
  }

  uint32_t big_endian() {
    uint8_t b[4];
    read(b);
    return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | b[3];
  }

  // Reading past the last byte also makes zlib compare gzip's checksum.
  void require_end() {
    uint8_t byte;
    const int got = gzread(file_.get(), &byte, 1);
    check();
    require(got == 0, Failure::data, "{}: goes on after the {} bytes that its header promises",
            path_, offset_);
  }

 private:
  void check() {
    int code = Z_OK;
    const char* message = gzerror(file_.get(), &code);
    require(code == Z_OK, Failure::data, "{}: {}", path_,
            code == Z_BUF_ERROR ? "truncated gzip data" : message);
  }

  struct Close {
    void operator()(gzFile file) const { gzclose(file); }
  };
  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
  int64_t offset_ = 0;
};

// Reads a header and returns the number of items.
uint32_t read_header(Reader& in, const fs::path& file, uint32_t expected) {
  const uint32_t magic = in.big_endian();
  require(magic == expected, Failure::data, "{}: magic number {:#010x}, expected {:#010x}",
          file.string(), magic, expected);
  return in.big_endian();
}

std::optional<fs::path> find(const fs::path& folder, const std::string& name) {
  for (const char* suffix : {"", ".gz"})
    if (const fs::path path = folder / (name + suffix); fs::exists(path)) return path;
  return std::nullopt;
}

fs::path must_find(const fs::path& folder, const std::string& name) {
  const std::optional<fs::path> path = find(folder, name);
  require(path.has_value(), Failure::data, "{}: no {} (or {}.gz) in it", folder.string(), name,
          name);
  return *path;
}

Dataset read_part(const fs::path& folder, const std::string& part) {
  const fs::path image_file = must_find(folder, part + "-images-idx3-ubyte");
  const fs::path label_file = must_find(folder, part + "-labels-idx1-ubyte");
  Dataset data{.images = read_idx_images(image_file)};
  const std::vector<uint8_t> labels = read_idx_labels(label_file);
  require(labels.size() == data.images.size(), Failure::data, "{}: {} labels for {} images",
          label_file.string(), labels.size(), data.images.size());
  require(!labels.empty(), Failure::data, "{}: no images in it", image_file.string());
  data.samples.reserve(labels.size());
  for (size_t i = 0; i < labels.size(); ++i)
    data.samples.push_back({fmt::format("{}#{}", image_file.string(), i), labels[i]});
  return data;
}

}  // namespace

std::vector<Image> read_idx_images(const fs::path& file) {
  Reader in(file);
  const uint32_t count = read_header(in, file, kImageMagic);
  const uint32_t height = in.big_endian(), width = in.big_endian();
  require(height - 1 < kMaxSide && width - 1 < kMaxSide, Failure::data,
          "{}: images of {} x {} pixels, sides must be 1 to {}", file.string(), width, height,
          kMaxSide);
  std::vector<Image> images;  // grows as bytes arrive, since the count may be a lie
  for (uint32_t i = 0; i < count; ++i)
    in.read(images.emplace_back(static_cast<int>(width), static_cast<int>(height), 1).pixels);
  in.require_end();
  return images;
}

std::vector<uint8_t> read_idx_labels(const fs::path& file) {
  constexpr size_t kPiece = 1 << 20;
  Reader in(file);
  const size_t count = read_header(in, file, kLabelMagic);
  std::vector<uint8_t> labels;
  while (labels.size() < count) {
    const size_t done = labels.size();
    labels.resize(std::min(count, done + kPiece));
    in.read(std::span(labels).subspan(done));
  }
  in.require_end();
  return labels;
}

bool has_idx_files(const fs::path& folder) {
  return find(folder, "train-images-idx3-ubyte") || find(folder, "t10k-images-idx3-ubyte");
}

TrainingData read_idx_folder(const fs::path& folder) {
  TrainingData data{.train = read_part(folder, "train")};
  const int largest = std::ranges::max(data.train.samples, {}, &Sample::label).label;
  for (int i = 0; i <= largest; ++i) data.train.classes.push_back(std::to_string(i));
  data.validation = read_idx_validation(folder, data.train.classes);
  return data;
}

Dataset read_idx_validation(const fs::path& folder, const std::vector<std::string>& classes) {
  Dataset data = read_part(folder, "t10k");
  for (Sample& sample : data.samples) {
    const auto known = std::ranges::find(classes, std::to_string(sample.label));
    require(known != classes.end(), Failure::data,
            "{}: label {} is not one of the {} classes trained on", sample.path, sample.label,
            classes.size());
    sample.label = static_cast<int>(known - classes.begin());
  }
  data.classes = classes;
  return data;
}

}  // namespace engine

#include "io/data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <span>
#include <system_error>

#include "engine/error.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kLabelMagic = 0x801,
                   kImageMagic = 0x803;  // unsigned bytes in one and in three dimensions
constexpr uint32_t kMaxIdxSide = 4096;   // pixels; bounds what a hostile header can allocate

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

  // Whether that many bytes more may come of the file, whose size is known.
  void expect(uint64_t bytes) {
    constexpr uint64_t kMostRatio = 100, kAlways = uint64_t{16} << 20;
    std::error_code error;
    const uint64_t size = fs::file_size(path_, error);
    require(!error, Failure::data, "{}: {}", path_, error.message());
    const bool plain = gzdirect(file_.get()) != 0;
    const uint64_t most = plain ? size : std::max(kAlways, kMostRatio * size);
    require(bytes <= most, Failure::data, "{}: ends after {} bytes{}, its header promises {}",
            path_, size, plain ? "" : " of compressed data", bytes);
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

// The name as MNIST's are written, with neither dots nor .gz.
std::string plain_name(std::string name) {
  if (name.ends_with(".gz")) name.resize(name.size() - 3);
  std::ranges::replace(name, '.', '-');
  return name;
}

// The file of a part, "train" or "t10k", whose name ends so; one that is not compressed goes first.
std::optional<fs::path> find(const fs::path& folder, const std::string& part,
                             const std::string& end) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), last; !error && it != last; it.increment(error)) {
    const std::string name = plain_name(it->path().filename().string());
    const auto is = [&](const std::string& wanted) {
      return name == wanted || name.ends_with('-' + wanted);
    };
    if (is(part + end) || (part == "t10k" && is("test" + end))) found.push_back(it->path());
  }
  std::ranges::sort(found, {}, [](const fs::path& path) { return path.string().size(); });
  for (const fs::path& other : found)
    require(plain_name(other.filename().string()) == plain_name(found[0].filename().string()),
            Failure::data, "{}: both {} and {}, which is the data set?", folder.string(),
            found[0].filename().string(), other.filename().string());
  if (found.empty()) return std::nullopt;
  return found[0];
}

fs::path must_find(const fs::path& folder, const std::string& part, const std::string& end) {
  const std::optional<fs::path> path = find(folder, part, end);
  require(path.has_value(), Failure::data, "{}: no {}{} (or {}{}.gz) in it", folder.string(), part,
          end, part, end);
  return *path;
}

constexpr const char* kImages = "-images-idx3-ubyte";
constexpr const char* kLabels = "-labels-idx1-ubyte";

// Samples whose labels are the numbers in the file.
Dataset read_part(const fs::path& folder, const std::string& part) {
  const fs::path image_file = must_find(folder, part, kImages);
  const fs::path label_file = must_find(folder, part, kLabels);
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

// Turns labels, which are numbers in a file, into positions in `classes`.
void set_classes(Dataset& data, const std::vector<std::string>& classes) {
  for (Sample& sample : data.samples) {
    const auto known = std::ranges::find(classes, std::to_string(sample.label));
    require(known != classes.end(), Failure::data,
            "{}: label {} is not one of the {} classes trained on", sample.path, sample.label,
            classes.size());
    sample.label = static_cast<int>(known - classes.begin());
  }
  data.classes = classes;
}

}  // namespace

std::vector<Image> read_idx_images(const fs::path& file) {
  Reader in(file);
  const uint32_t count = read_header(in, file, kImageMagic);
  const uint32_t height = in.big_endian(), width = in.big_endian();
  require(height - 1 < kMaxIdxSide && width - 1 < kMaxIdxSide, Failure::data,
          "{}: images of {} x {} pixels, sides must be 1 to {}", file.string(), width, height,
          kMaxIdxSide);
  in.expect(uint64_t{count} * height * width);
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
  in.expect(count);
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
  return find(folder, "train", kImages) || find(folder, "t10k", kImages);
}

TrainingData read_idx_folder(const fs::path& folder) {
  TrainingData data{.train = read_part(folder, "train")};
  std::set<int> labels;
  for (const Sample& sample : data.train.samples) labels.insert(sample.label);
  std::vector<std::string> classes;
  for (const int label : labels) classes.push_back(std::to_string(label));
  set_classes(data.train, classes);
  data.validation = read_idx_validation(folder, classes);
  return data;
}

Dataset read_idx_validation(const fs::path& folder, const std::vector<std::string>& classes) {
  Dataset data = read_part(folder, "t10k");
  set_classes(data, classes);
  return data;
}

}  // namespace engine

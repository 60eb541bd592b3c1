// TIFF through libtiff: the first page, in strips or tiles, with 1 to 16 bits per sample. The
// library decompresses; what samples mean is decided here, and as PIL decides it.
#include <tiffio.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/exif.h"

namespace engine {
namespace {

// The file in memory, as libtiff wants to read it.
struct TiffSource {
  std::span<const std::byte> file;
  size_t at = 0;
  char error[160] = "";  // the first, which says most
};

tmsize_t read_source(thandle_t handle, void* to, tmsize_t size) {
  auto& source = *static_cast<TiffSource*>(handle);
  const size_t start = std::min(source.at, source.file.size());
  const size_t count = std::min(size_t(size), source.file.size() - start);
  if (count > 0) std::memcpy(to, source.file.data() + start, count);
  source.at = start + count;
  return tmsize_t(count);
}

tmsize_t refuse_to_write(thandle_t, void*, tmsize_t) {
  return 0;
}

toff_t seek_source(thandle_t handle, toff_t offset, int whence) {
  auto& source = *static_cast<TiffSource*>(handle);
  if (whence == SEEK_SET) source.at = offset;
  if (whence == SEEK_CUR) source.at += offset;
  if (whence == SEEK_END) source.at = source.file.size() + offset;
  return source.at;
}

int close_source(thandle_t) {
  return 0;
}

toff_t size_of_source(thandle_t handle) {
  return static_cast<TiffSource*>(handle)->file.size();
}

int map_source(thandle_t handle, void** base, toff_t* size) {
  const auto file = static_cast<TiffSource*>(handle)->file;
  *base = const_cast<std::byte*>(file.data());  // libtiff only reads files that are opened to read
  *size = file.size();
  return 1;
}

void unmap_source(thandle_t, void*, toff_t) {}

int keep_error(TIFF*, void* user, const char*, const char* format, va_list values) {
  auto& source = *static_cast<TiffSource*>(user);
  if (source.error[0] == '\0') std::vsnprintf(source.error, sizeof source.error, format, values);
  return 1;
}

int ignore(TIFF*, void*, const char*, const char*, va_list) {
  return 1;
}

// What the first page says of itself.
struct Page {
  uint32_t width = 0, height = 0;
  uint32_t tile_width = 0, tile_height = 0;  // 0 if it is in strips
  uint16_t photometric = PHOTOMETRIC_MINISWHITE, compression = COMPRESSION_NONE;
  uint16_t samples = 1, bits = 1, format = SAMPLEFORMAT_UINT;
  uint16_t planes = PLANARCONFIG_CONTIG, orientation = ORIENTATION_TOPLEFT;
  bool alpha = false, premultiplied = false;

  // Samples of a pixel that matter: alpha does where colours were multiplied by it.
  int kept() const {
    if (photometric == PHOTOMETRIC_SEPARATED) return 4;
    return channels() == 1 || photometric == PHOTOMETRIC_PALETTE ? 1 : premultiplied ? 4 : 3;
  }
  int channels() const {
    return photometric == PHOTOMETRIC_MINISWHITE || photometric == PHOTOMETRIC_MINISBLACK ? 1 : 3;
  }
};

class TiffFile {
 public:
  TiffFile(std::span<const std::byte> file, std::string_view name) : source_{file}, name_(name) {
    const std::unique_ptr<TIFFOpenOptions, void (*)(TIFFOpenOptions*)> options(
        TIFFOpenOptionsAlloc(), TIFFOpenOptionsFree);
    TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), kMaxImagePixels * 4);
    TIFFOpenOptionsSetErrorHandlerExtR(options.get(), keep_error, &source_);
    TIFFOpenOptionsSetWarningHandlerExtR(options.get(), ignore, nullptr);
    tiff_.reset(TIFFClientOpenExt("", "r", &source_, read_source, refuse_to_write, seek_source,
                                  close_source, size_of_source, map_source, unmap_source,
                                  options.get()));
    check(tiff_ != nullptr);
  }
  TiffFile(const TiffFile&) = delete;
  TiffFile& operator=(const TiffFile&) = delete;

  // Some of libtiff's functions tell damage and go on.
  void check(bool fine) const {
    require(fine && source_.error[0] == '\0', Failure::data, "{}: TIFF: {}", name_,
            source_.error[0] ? source_.error : "damaged");
  }
  TIFF* get() const { return tiff_.get(); }
  std::string_view name() const { return name_; }

  template <class T>
  void tag(uint32_t number, T& value) const {
    TIFFGetFieldDefaulted(get(), number, &value);
  }

 private:
  TiffSource source_;
  std::string_view name_;
  std::unique_ptr<TIFF, void (*)(TIFF*)> tiff_{nullptr, TIFFClose};  // it reads from source_
};

void check_page(const Page& page, const TiffFile& file) {
  const bool gray = page.channels() == 1, rgb = page.photometric == PHOTOMETRIC_RGB;
  const bool palette = page.photometric == PHOTOMETRIC_PALETTE;
  const bool cmyk = page.photometric == PHOTOMETRIC_SEPARATED;
  const bool ycbcr = page.photometric == PHOTOMETRIC_YCBCR;
  const bool few = page.bits == 1 || page.bits == 2 || page.bits == 4;
  const bool depth = page.bits == 8 || (page.bits == 12 && gray) ||
                     (page.bits == 16 && !palette && !ycbcr) || (few && (gray || palette));
  const bool whole = page.format == SAMPLEFORMAT_UINT || page.format == SAMPLEFORMAT_VOID ||
                     (page.format == SAMPLEFORMAT_INT && page.bits == 8);
  require(
      (gray || rgb || palette || cmyk || ycbcr) && depth && whole && page.samples >= page.kept(),
      Failure::data,
      "{}: a TIFF file with {} samples of {} bits, sample format {}, photometric interpretation "
      "{}",
      file.name(), page.samples, page.bits, page.format, page.photometric);
}

// A tile is decompressed as a whole, so it may not be much larger than the picture.
void check_tile(const Page& page, const TiffFile& file) {
  constexpr uint64_t kUsual = 2048 * 2048;
  const uint64_t tile = uint64_t{page.tile_width} * page.tile_height;
  const uint64_t most = std::max(kUsual, uint64_t{page.width} * page.height);
  require(tile > 0 && tile <= most, Failure::data, "{}: TIFF: tiles of {}x{} pixels for {}x{}",
          file.name(), page.tile_width, page.tile_height, page.width, page.height);
}

Page read_page(const TiffFile& file) {
  Page page;
  file.check(TIFFGetField(file.get(), TIFFTAG_IMAGEWIDTH, &page.width) != 0 &&
             TIFFGetField(file.get(), TIFFTAG_IMAGELENGTH, &page.height) != 0);
  check_image_size(page.width, page.height, file.name());
  TIFFGetField(file.get(), TIFFTAG_PHOTOMETRIC, &page.photometric);
  file.tag(TIFFTAG_COMPRESSION, page.compression);
  if (page.compression == COMPRESSION_OJPEG) page.photometric = PHOTOMETRIC_YCBCR;
  file.tag(TIFFTAG_SAMPLESPERPIXEL, page.samples);
  file.tag(TIFFTAG_BITSPERSAMPLE, page.bits);
  file.tag(TIFFTAG_SAMPLEFORMAT, page.format);
  file.tag(TIFFTAG_PLANARCONFIG, page.planes);
  file.tag(TIFFTAG_ORIENTATION, page.orientation);
  if (TIFFIsTiled(file.get()) != 0) {
    file.tag(TIFFTAG_TILEWIDTH, page.tile_width);
    file.tag(TIFFTAG_TILELENGTH, page.tile_height);
    check_tile(page, file);
  }
  uint16_t extra = 0, *meanings = nullptr;
  TIFFGetFieldDefaulted(file.get(), TIFFTAG_EXTRASAMPLES, &extra, &meanings);
  page.alpha = extra > 0 && meanings[0] != EXTRASAMPLE_UNSPECIFIED;
  page.premultiplied = page.photometric == PHOTOMETRIC_RGB && page.samples >= 4 && extra > 0 &&
                       meanings[0] == EXTRASAMPLE_ASSOCALPHA;
  check_page(page, file);
  return page;
}

// Sample number `index` of a row as 8 bits, gray of fewer bits stretched, of more the highest
// remain.
uint8_t sample_at(const uint8_t* row, size_t index, const Page& page) {
  if (page.bits == 8) return row[index];
  if (page.bits == 16) return row[2 * index + 1];  // libtiff gives little-endian on this machine
  const size_t bit = index * page.bits;
  if (page.bits == 12)  // two samples in three bytes
    return bit % 8 == 0 ? row[bit / 8]
                        : static_cast<uint8_t>(row[bit / 8] << 4 | row[bit / 8 + 1] >> 4);
  const int most = (1 << page.bits) - 1;
  const int value = row[bit / 8] >> (8 - page.bits - int(bit % 8)) & most;
  return static_cast<uint8_t>(page.photometric == PHOTOMETRIC_PALETTE ? value : value * 255 / most);
}

// A row of strips or tiles: `count` pixels, which begin at (x, y), with all samples or with one.
void place_row(Image& image, int x, int y, int count, const uint8_t* row, const Page& page,
               int plane) {
  const bool together = page.planes == PLANARCONFIG_CONTIG;
  const size_t samples = together ? page.samples : 1;
  const int first = together ? 0 : plane, end = together ? image.channels : plane + 1;
  uint8_t* to = image.row(y) + size_t(x) * size_t(image.channels);
  for (int i = 0; i < count; ++i, to += image.channels)
    for (int c = first; c < end; ++c)
      to[c] = sample_at(row, size_t(i) * samples + size_t(c - first), page);
}

// A picture whose rows come with extend(), so that a file which ends early costs little.
Image image_without_rows(const Page& page, int channels) {
  Image image;
  image.width = int(page.width);
  image.height = int(page.height);
  image.channels = channels;
  image.pixels.reserve(size_t(page.width) * page.height * size_t(channels));
  return image;
}

void extend(Image& image, int rows) {
  const size_t stride = size_t(image.width) * size_t(image.channels);
  const size_t wanted = stride * size_t(std::min(rows, image.height));
  if (image.pixels.size() < wanted) image.pixels.resize(wanted);
}

void read_strips(Image& image, const TiffFile& file, const Page& page, int plane) {
  std::vector<uint8_t> row(size_t(TIFFScanlineSize(file.get())));
  file.check(!row.empty());
  for (int y = 0; y < image.height; ++y) {
    file.check(TIFFReadScanline(file.get(), row.data(), uint32_t(y), uint16_t(plane)) == 1);
    extend(image, y + 1);
    place_row(image, 0, y, image.width, row.data(), page, plane);
  }
}

void read_tiles(Image& image, const TiffFile& file, const Page& page, int plane) {
  const int width = int(page.tile_width), height = int(page.tile_height);
  const size_t row_bytes = size_t(TIFFTileRowSize(file.get()));
  std::vector<uint8_t> tile(size_t(TIFFTileSize(file.get())));
  file.check(!tile.empty() && row_bytes * page.tile_height <= tile.size());
  for (int top = 0; top < image.height; top += height)
    for (int left = 0; left < image.width; left += width) {
      const tmsize_t got =
          TIFFReadTile(file.get(), tile.data(), uint32_t(left), uint32_t(top), 0, uint16_t(plane));
      file.check(got == tmsize_t(tile.size()));
      extend(image, top + height);
      const int columns = std::min(width, image.width - left);
      for (int y = 0; y < std::min(height, image.height - top); ++y)
        place_row(image, left, top + y, columns, tile.data() + size_t(y) * row_bytes, page, plane);
    }
}

// Samples in the file's own meaning.
Image read_samples(const TiffFile& file, const Page& page) {
  Image image = image_without_rows(page, page.kept());
  const int planes = page.planes == PLANARCONFIG_CONTIG ? 1 : image.channels;
  for (int plane = 0; plane < planes; ++plane)
    page.tile_width > 0 ? read_tiles(image, file, page, plane)
                        : read_strips(image, file, page, plane);
  return image;
}

Image look_up(const Image& indices, const TiffFile& file) {
  const uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
  file.check(TIFFGetField(file.get(), TIFFTAG_COLORMAP, &red, &green, &blue) == 1);
  Image image(indices.width, indices.height, 3);
  uint8_t* to = image.pixels.data();
  for (const uint8_t index : indices.pixels)
    for (const uint16_t* map : {red, green, blue}) *to++ = static_cast<uint8_t>(map[index] >> 8);
  return image;
}

// Four channels, the last of which is alpha, to three.
Image undo_alpha(Image image) {
  uint8_t* to = image.pixels.data();
  for (const uint8_t *from = to, *end = to + image.pixels.size(); from != end; from += 4)
    for (int c = 0; c < 3; ++c)
      *to++ = from[3] == 0 ? 0 : static_cast<uint8_t>(std::min(255, from[c] * 255 / from[3]));
  image.channels = 3;
  image.pixels.resize(image.pixels.size() / 4 * 3);
  return image;
}

// YCbCr, whose chroma may be stored at a lower resolution: libtiff makes RGB of whole strips or
// tiles, with the last row first.
Image read_ycbcr(const TiffFile& file, const Page& page) {
  Image image = image_without_rows(page, 3);
  uint32_t rows = page.height;
  file.tag(TIFFTAG_ROWSPERSTRIP, rows);
  const bool tiled = page.tile_width > 0;
  const int width = tiled ? int(page.tile_width) : image.width;
  const int height = tiled ? int(page.tile_height) : int(std::min(rows, page.height));
  std::vector<uint32_t> raster(size_t(width) * size_t(height));
  for (int top = 0; top < image.height; top += height)
    for (int left = 0; left < image.width; left += width) {
      const auto x = uint32_t(left), y = uint32_t(top);
      file.check((tiled ? TIFFReadRGBATile(file.get(), x, y, raster.data())
                        : TIFFReadRGBAStrip(file.get(), y, raster.data())) == 1);
      extend(image, top + height);
      const int filled = tiled ? height : std::min(height, image.height - top);
      for (int row = 0; row < std::min(filled, image.height - top); ++row) {
        const uint32_t* from = raster.data() + size_t(filled - 1 - row) * size_t(width);
        uint8_t* to = image.row(top + row) + size_t(left) * 3;
        for (int i = 0; i < std::min(width, image.width - left); ++i, to += 3) {
          to[0] = static_cast<uint8_t>(TIFFGetR(from[i]));
          to[1] = static_cast<uint8_t>(TIFFGetG(from[i]));
          to[2] = static_cast<uint8_t>(TIFFGetB(from[i]));
        }
      }
    }
  return image;
}

Image read_pixels(const TiffFile& file, Page& page) {
  const bool together = page.planes == PLANARCONFIG_CONTIG;
  if (page.photometric == PHOTOMETRIC_YCBCR) {
    if (page.compression != COMPRESSION_JPEG || !together) return read_ycbcr(file, page);
    TIFFSetField(file.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
  }
  Image image = read_samples(file, page);
  switch (page.photometric) {
    case PHOTOMETRIC_MINISWHITE:
      for (uint8_t& level : image.pixels) level = static_cast<uint8_t>(255 - level);
      return image;
    case PHOTOMETRIC_PALETTE: return look_up(image, file);
    case PHOTOMETRIC_SEPARATED: return ink_to_rgb(std::move(image), Ink::as_it_is);
    default: return page.premultiplied ? undo_alpha(std::move(image)) : std::move(image);
  }
}

}  // namespace

bool is_tiff(std::span<const std::byte> file) {
  using namespace std::string_view_literals;
  return starts_with(file, "II*\0"sv) || starts_with(file, "MM\0*"sv) ||
         starts_with(file, "II+\0"sv) || starts_with(file, "MM\0+"sv);
}

Image decode_tiff(std::span<const std::byte> bytes, std::string_view name) {
  const TiffFile file(bytes, name);
  Page page = read_page(file);
  const int orientation = page.orientation >= 1 && page.orientation <= 8 ? page.orientation : 1;
  return upright(read_pixels(file, page), orientation);
}

ImageInfo inspect_tiff(std::span<const std::byte> bytes, std::string_view name) {
  const TiffFile file(bytes, name);
  const Page page = read_page(file);
  return {.format = "tiff",
          .width = static_cast<int>(page.width),
          .height = static_cast<int>(page.height),
          .channels = page.photometric == PHOTOMETRIC_SEPARATED ? 4 : page.channels(),
          .bits = page.bits > 8 ? 16 : 8,
          .alpha = page.alpha,
          .orientation = page.orientation};
}

}  // namespace engine

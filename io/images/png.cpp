// PNG through libpng. Like libjpeg it reports errors by a jump, so the functions that call setjmp
// own nothing that needs a destructor. Of the ancillary chunks only
// tRNS, eXIf and texts are read.
#include <png.h>

#include <algorithm>
#include <cctype>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/encode.h"
#include "io/images/exif.h"

namespace engine {
namespace {

// ImageMagick writes EXIF as a line break, a name, a length and hexadecimal digits, each in lines
// of their own.
std::vector<std::byte> bytes_of_hex(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    const size_t end = text.find('\n');
    if (end == text.npos) return {};
    text.remove_prefix(end + 1);
  }
  std::vector<std::byte> bytes;
  int high = -1;  // the first digit of a pair
  for (const char c : text) {
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0) continue;
    const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    if (high >= 0) bytes.push_back(std::byte(high << 4 | digit));
    high = high >= 0 ? -1 : digit;
  }
  return bytes;
}

// Steps return false after an error, whose text is then in error(). They are called in the order in
// which they stand.
class PngFile {
 public:
  explicit PngFile(std::span<const std::byte> file) : file_(file), left_(file) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, give_up, ignore);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
  }
  ~PngFile() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngFile(const PngFile&) = delete;
  PngFile& operator=(const PngFile&) = delete;

  const char* error() const { return error_; }
  int64_t width() const { return png_get_image_width(png_, info_); }
  int64_t height() const { return png_get_image_height(png_, info_); }
  int depth() const { return png_get_bit_depth(png_, info_); }  // bits per sample
  int channels() const { return has(PNG_COLOR_MASK_COLOR) ? 3 : 1; }
  // Whether pixels have an alpha of their own or the palette has transparent colours.
  bool alpha() const {
    return has(PNG_COLOR_MASK_ALPHA) ||
           (has(PNG_COLOR_MASK_PALETTE) && png_get_valid(png_, info_, PNG_INFO_tRNS) != 0);
  }
  // The orientation in the eXIf chunk, in EXIF that ImageMagick wrote as text, or in XMP, each of
  // which may stand before or after the pixels, if it was read.
  int orientation() const {
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    png_get_eXIf_1(png_, info_, &size, &exif);
    const auto xmp = std::as_bytes(std::span(text("XML:com.adobe.xmp")));
    if (size > 0) return picture_orientation(std::as_bytes(std::span(exif, size)), xmp);
    return picture_orientation(bytes_of_hex(text("Raw profile type exif")), xmp);
  }

  // Reads what is wanted even where its checksum is wrong.
  void trust_checksums() {
    if (png_) png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
  }

  // Reads all that stands before the pixels.
  bool read_header() {
    if (!info_ || setjmp(png_jmpbuf(png_)) != 0) return false;
    check_chunks();
    constexpr int kAllKnown = -1;
    constexpr int kRead = 4;
    const auto* read = reinterpret_cast<png_const_bytep>("eXIf\0tEXt\0zTXt\0iTXt");
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, kAllKnown);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT, read, kRead);
    png_set_chunk_malloc_max(png_, 1 << 18);  // bytes of one text, which may be compressed
    png_set_chunk_cache_max(png_, 32);        // texts
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_image_size() has its own
    png_set_read_fn(png_, this, take);
    png_read_info(png_, info_);
    return true;
  }

  // Bytes of all rows, uncompressed; each begins with its filter.
  size_t raw_bytes() const {
    return (png_get_rowbytes(png_, info_) + 1) * size_t(png_get_image_height(png_, info_));
  }

  // Reads the pixels as 8 bits of gray or RGB, and what stands after them. A colour that the
  // palette lacks is black.
  bool read_pixels(Image& image) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_expand(png_);  // palettes to RGB, fewer than 8 bits to 8
    png_set_strip_16(png_);
    png_set_strip_alpha(png_);
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const int all = passes * image.height;
    for (int i = 0; i < all; ++i) {
      if (i == all - 1) check_data_left();
      png_read_row(png_, image.row(i % image.height), nullptr);
    }
    png_read_end(png_, info_);
    return true;
  }

 private:
  bool has(int color_mask) const { return (png_get_color_type(png_, info_) & color_mask) != 0; }

  // The text with that key; empty if the file has none.
  std::string_view text(std::string_view key) const {
    png_textp texts = nullptr;
    const int count = png_get_text(png_, info_, &texts, nullptr);
    for (const png_text& entry : std::span(texts, size_t(count)))
      if (key == entry.key && entry.text)
        return {entry.text, std::max(entry.text_length, entry.itxt_length)};
    return {};
  }

  [[noreturn]] static void give_up(png_structp png, png_const_charp why) {
    auto& file = *static_cast<PngFile*>(png_get_error_ptr(png));
    std::snprintf(file.error_, sizeof file.error_, "%s", why);
    png_longjmp(png, 1);
  }
  static void ignore(png_structp, png_const_charp) {}

  // With the last row libpng inflates what is left of the data, only to see whether there is too
  // much. A row needs little more than its size however badly it is compressed.
  void check_data_left() const {
    constexpr size_t kSlack = 1 << 16;  // among others, what libpng has read ahead
    if (data_left() > png_get_rowbytes(png_, info_) * 2 + kSlack)
      png_error(png_, "compressed data go on after the last row");
  }

  // Calls use(type, begin, end) for where the data of every chunk should lie, up to IEND.
  template <class Use>
  void for_chunks(const Use& use) const {
    constexpr size_t kSignature = 8, kHead = 8, kChecksum = 4;  // a head is length and type
    for (size_t at = kSignature; at + kHead <= file_.size();) {
      const auto* head = reinterpret_cast<png_const_bytep>(file_.data() + at);
      const std::string_view type(reinterpret_cast<const char*>(head) + 4, 4);
      const size_t begin = at + kHead, end = begin + png_get_uint_32(head);
      use(type, begin, end);
      if (type == "IEND") return;
      at = end + kChecksum;
    }
  }

  // libpng takes memory for a chunk before it reads it.
  void check_chunks() const {
    for_chunks([&](std::string_view type, size_t, size_t end) {
      if (type != "IDAT" && end > file_.size()) png_error(png_, "the file is truncated");
    });
  }

  // Bytes in the chunks of pixels that libpng has not read yet.
  size_t data_left() const {
    const size_t done = file_.size() - left_.size();
    size_t sum = 0;
    for_chunks([&](std::string_view type, size_t begin, size_t end) {
      end = std::min(end, file_.size());
      if (type == "IDAT" && end > done) sum += end - std::max(begin, done);
    });
    return sum;
  }

  static void take(png_structp png, png_bytep to, size_t size) {
    auto& left = static_cast<PngFile*>(png_get_io_ptr(png))->left_;
    if (left.size() < size) png_error(png, "the file is truncated");
    std::memcpy(to, left.data(), size);
    left = left.subspan(size);
  }

  std::span<const std::byte> file_;
  std::span<const std::byte> left_;  // what libpng has not read yet
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  char error_[128] = "no memory for libpng";
};

// Owns the encoder and its output, so that the function with setjmp owns nothing.
struct PngEncoder {
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  std::vector<std::byte> file;

  ~PngEncoder() { png_destroy_write_struct(&png, &info); }

  bool run(const Image& image) {
    if (!info || setjmp(png_jmpbuf(png)) != 0) return false;
    const int type = image.channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY;
    png_set_write_fn(png, &file, append, nullptr);
    png_set_IHDR(png, info, png_uint_32(image.width), png_uint_32(image.height), 8, type,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_BASE, PNG_FILTER_TYPE_BASE);
    png_write_info(png, info);
    for (int y = 0; y < image.height; ++y) png_write_row(png, image.row(y));
    png_write_end(png, info);
    return true;
  }

  static void append(png_structp png, png_bytep bytes, size_t size) {
    auto& file = *static_cast<std::vector<std::byte>*>(png_get_io_ptr(png));
    const auto* first = reinterpret_cast<const std::byte*>(bytes);
    file.insert(file.end(), first, first + size);
  }
};

void read_header(PngFile& png, std::span<const std::byte> file, std::string_view name) {
  constexpr size_t kFirstType = 12;
  const bool apple = file.size() > kFirstType && starts_with(file.subspan(kFirstType), "CgBI");
  require(!apple, Failure::data, "{}: Apple's CgBI variant of PNG, which is not read", name);
  require(png.read_header(), Failure::data, "{}: PNG: {}", name, png.error());
}

}  // namespace

Image decode_png(std::span<const std::byte> file, std::string_view name) {
  PngFile png(file);
  read_header(png, file, name);
  check_image_size(png.width(), png.height(), name);
  constexpr size_t kDeflate = 1032;  // bytes that one byte of deflate can stand for
  require(png.raw_bytes() <= file.size() * kDeflate, Failure::data,
          "{}: PNG: truncated, {}x{} pixels in {} bytes", name, png.width(), png.height(),
          file.size());
  Image image(int(png.width()), int(png.height()), png.channels());
  require(png.read_pixels(image), Failure::data, "{}: PNG: {}", name, png.error());
  return upright(std::move(image), png.orientation());
}

ImageInfo inspect_png(std::span<const std::byte> file, std::string_view name) {
  PngFile png(file);
  png.trust_checksums();  // what the header says; decode_png() tells damage
  read_header(png, file, name);
  return {.format = "png",
          .width = static_cast<int>(png.width()),
          .height = static_cast<int>(png.height()),
          .channels = png.channels(),
          .bits = png.depth() == 16 ? 16 : 8,
          .alpha = png.alpha(),
          .orientation = png.orientation()};
}

std::vector<std::byte> encode_png(const Image& image) {
  PngEncoder encoder;
  require(encoder.run(image), Failure::internal, "PNG encoding of {}x{} pixels failed", image.width,
          image.height);
  return std::move(encoder.file);
}

}  // namespace engine

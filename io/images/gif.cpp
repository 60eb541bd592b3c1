// GIF through giflib: the first frame on its screen. Where the frame does not reach, and where it
// is transparent, the screen has the colours that PIL's convert("RGB") gives it.
#include <gif_lib.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/raw_file.h"

namespace engine {
namespace {

class GifFile {
 public:
  GifFile(std::span<const std::byte> file, std::string_view name) : left_(file), name_(name) {
    int problem = 0;
    gif_ = DGifOpen(this, take, &problem);
    require(gif_ != nullptr, Failure::data, "{}: GIF: {}", name, text_of(problem));
  }
  ~GifFile() { DGifCloseFile(gif_, nullptr); }
  GifFile(const GifFile&) = delete;
  GifFile& operator=(const GifFile&) = delete;

  const GifImageDesc& frame() const { return gif_->Image; }
  // The screen, which grows if the frame is larger.
  int width() const { return std::max(gif_->SWidth, gif_->Image.Left + gif_->Image.Width); }
  int height() const { return std::max(gif_->SHeight, gif_->Image.Top + gif_->Image.Height); }
  int transparent() const { return transparent_; }  // an index, or -1

  // Reads all that stands before the pixels of the first frame.
  void find_frame() {
    GifRecordType record = UNDEFINED_RECORD_TYPE;
    while (record != IMAGE_DESC_RECORD_TYPE) {
      check(DGifGetRecordType(gif_, &record));
      require(record != TERMINATE_RECORD_TYPE, Failure::data, "{}: a GIF file without a picture",
              name_);
      if (record == EXTENSION_RECORD_TYPE) read_extension();
    }
    check(DGifGetImageDesc(gif_));
  }

  void read_row(std::vector<uint8_t>& row) {
    check(DGifGetLine(gif_, row.data(), int(row.size())));
  }

  // The frame's own palette, else that of the file, else a scale of grays.
  Palette palette() const {
    const ColorMapObject* map = gif_->Image.ColorMap ? gif_->Image.ColorMap : gif_->SColorMap;
    Palette palette{};
    for (int i = 0; i < int(palette.size()); ++i)
      if (map && i < map->ColorCount)
        palette[size_t(i)] = {map->Colors[i].Red, map->Colors[i].Green, map->Colors[i].Blue};
      else if (!map || is_gray_scale(*map))
        palette[size_t(i)].fill(static_cast<uint8_t>(i));
    return palette;
  }

 private:
  static const char* text_of(int problem) {
    const char* text = GifErrorString(problem);
    return text ? text : "not readable";
  }
  void check(int result) const {
    require(result == GIF_OK, Failure::data, "{}: GIF: {}", name_, text_of(gif_->Error));
  }

  // PIL drops a palette that says of every index the same gray, and takes indices beyond it too.
  static bool is_gray_scale(const ColorMapObject& map) {
    for (int i = 0; i < map.ColorCount; ++i) {
      const GifColorType& color = map.Colors[i];
      if (color.Red != i || color.Green != i || color.Blue != i) return false;
    }
    return true;
  }

  void read_extension() {
    int code = 0;
    GifByteType* block = nullptr;
    check(DGifGetExtension(gif_, &code, &block));
    GraphicsControlBlock control{};
    const bool is_control = code == GRAPHICS_EXT_FUNC_CODE && block;
    if (is_control && DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK &&
        control.TransparentColor != NO_TRANSPARENT_COLOR)
      transparent_ = control.TransparentColor;
    while (block) check(DGifGetExtensionNext(gif_, &block));
  }

  static int take(GifFileType* gif, GifByteType* to, int size) {
    auto& left = static_cast<GifFile*>(gif->UserData)->left_;
    const size_t count = std::min(left.size(), size_t(size));
    if (count > 0) std::memcpy(to, left.data(), count);
    left = left.subspan(count);
    return int(count);
  }

  std::span<const std::byte> left_;  // what giflib has not read yet
  std::string_view name_;
  GifFileType* gif_ = nullptr;
  int transparent_ = -1;
};

// A string of the dictionary is at most 4096 pixels long, and its code has at least 9 bits once it
// is longer than a few. A screen of more pixels than that is not what the file is about.
void check_plausible(const GifFile& gif, size_t bytes, std::string_view name) {
  constexpr size_t kPixelsPerByte = 4096;
  require(size_t(gif.width()) * size_t(gif.height()) <= bytes * kPixelsPerByte, Failure::data,
          "{}: a GIF screen of {}x{} pixels in a file of {} bytes", name, gif.width(), gif.height(),
          bytes);
}

// Every row of the frame once, in the order of the file.
std::vector<int> row_order(const GifImageDesc& frame) {
  std::vector<int> order;
  constexpr std::pair<int, int> kPlain[] = {{0, 1}},
                                kInterlaced[] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}};
  const std::span<const std::pair<int, int>> passes =
      frame.Interlace ? std::span<const std::pair<int, int>>(kInterlaced) : kPlain;
  for (const auto& [first, step] : passes)
    for (int y = first; y < frame.Height; y += step) order.push_back(y);
  return order;
}

}  // namespace

Image decode_gif(std::span<const std::byte> file, std::string_view name) {
  GifFile gif(file, name);
  gif.find_frame();
  check_image_size(gif.width(), gif.height(), name);
  check_plausible(gif, file.size(), name);
  const Palette palette = gif.palette();
  const GifImageDesc& frame = gif.frame();
  Image image(gif.width(), gif.height(), 3);
  const Color& background = palette[size_t(std::max(gif.transparent(), 0))];
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = background[i % 3];
  std::vector<uint8_t> row(size_t(frame.Width));
  for (const int y : row_order(frame)) {
    gif.read_row(row);
    uint8_t* to = image.row(frame.Top + y) + size_t(frame.Left) * 3;
    for (const uint8_t index : row) to = std::ranges::copy(palette[index], to).out;
  }
  return image;
}

ImageInfo inspect_gif(std::span<const std::byte> file, std::string_view name) {
  GifFile gif(file, name);
  gif.find_frame();
  check_image_size(gif.width(), gif.height(), name);
  return {.format = "gif",
          .width = gif.width(),
          .height = gif.height(),
          .channels = 3,
          .alpha = gif.transparent() >= 0};
}

}  // namespace engine

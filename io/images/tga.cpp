// TGA through stb_image, which only this file compiles: gray, colours and palettes, plain or with
// run lengths, with rows and columns in either order. The format has no magic bytes, so a file is
// taken for TGA if its header makes sense. stb reads a file that ends early as if zeros followed;
// here a file is truncated if more bytes were used than it has.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_TGA
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS 65500
#include <stb/stb_image.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/raw_file.h"

namespace engine {
namespace {

static_assert(STBI_MAX_DIMENSIONS == kMaxImageSide);

enum Kind { kIndexed = 1, kColor = 2, kGray = 3 };

constexpr size_t kHeader = 18;

struct Tga {
  int kind = 0;
  bool runs = false, right_to_left = false;
  int width = 0, height = 0, depth = 0;  // bits per pixel
  int first_color = 0, color_depth = 0;

  int channels() const { return kind == kGray ? 1 : 3; }
  size_t pixels() const { return size_t(width) * size_t(height); }
};

bool makes_sense(const Tga& tga, int type, int has_palette) {
  if (has_palette > 1 || tga.width == 0 || tga.height == 0) return false;
  const bool palette = tga.color_depth == 16 || tga.color_depth == 24 || tga.color_depth == 32;
  if (has_palette == 1 && !palette) return false;
  switch (type) {
    case 1:
    case 9: return has_palette == 1 && tga.depth == 8;
    case 2:
    case 10: return tga.depth == 16 || tga.depth == 24 || tga.depth == 32;
    case 3:
    case 11: return tga.depth == 8 || tga.depth == 16;
    default: return false;
  }
}

Tga read_tga_header(std::span<const std::byte> file, std::string_view name) {
  RawFile in(file, name);
  constexpr const char* kUnknown = "{}: not an image of a known format";
  require(file.size() > kHeader, Failure::data, kUnknown, name);
  Tga tga;
  in.u8();  // the length of a text behind the header
  const int has_palette = in.u8(), type = in.u8();
  tga.kind = type & 7;
  tga.runs = (type & 8) != 0;
  tga.first_color = in.u16();
  in.u16();  // colours
  tga.color_depth = in.u8();
  in.take(4);  // the corner on a screen
  tga.width = in.u16();
  tga.height = in.u16();
  tga.depth = in.u8();
  tga.right_to_left = (in.u8() & 0x10) != 0;
  require(makes_sense(tga, type, has_palette), Failure::data, kUnknown, name);
  return tga;
}

// The fewest bytes that such pixels take, for which no memory is taken in vain.
size_t fewest_bytes(const Tga& tga) {
  const auto size = static_cast<size_t>(tga.depth / 8);
  constexpr size_t kLongest = 128;  // pixels of a run
  return tga.runs ? (tga.pixels() + kLongest - 1) / kLongest * (1 + size) : tga.pixels() * size;
}

// A file that zeros without end follow, and how far into it stb has read.
struct TgaSource {
  std::span<const std::byte> file;
  size_t position = 0;
};

int read(void* user, char* to, int size) {
  auto& source = *static_cast<TgaSource*>(user);
  const size_t start = std::min(source.position, source.file.size());
  const size_t count = std::min(size_t(size), source.file.size() - start);
  std::memcpy(to, source.file.data() + start, count);
  std::memset(to + count, 0, size_t(size) - count);
  source.position += size_t(size);
  return size;
}

void skip(void* user, int size) {
  static_cast<TgaSource*>(user)->position += size_t(size);
}

int at_end(void* user) {
  const auto& source = *static_cast<const TgaSource*>(user);
  return source.position >= source.file.size();
}

struct Free {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

// Rows from the top, as stb gives them. It looks past palettes that begin in their middle, and past
// columns from the right.
Image picture_of(const Tga& tga, const stbi_uc* pixels, int channels) {
  Image image(tga.width, tga.height, tga.channels());
  const int kept = tga.channels();
  for (int y = 0; y < tga.height; ++y)
    for (int x = 0; x < tga.width; ++x, pixels += channels)
      std::copy_n(pixels, kept,
                  image.row(y) + size_t(tga.right_to_left ? tga.width - 1 - x : x) * size_t(kept));
  return image;
}

}  // namespace

Image decode_tga(std::span<const std::byte> file, std::string_view name) {
  const Tga tga = read_tga_header(file, name);
  check_image_size(tga.width, tga.height, name);
  require(file.size() <= INT_MAX, Failure::data, "{}: {} bytes", name, file.size());
  require(tga.kind != kIndexed || tga.first_color == 0, Failure::data,
          "{}: a palette that begins with colour {}", name, tga.first_color);
  const size_t have = file.size() - kHeader, fewest = fewest_bytes(tga);
  require(have >= fewest, Failure::data, "{}: truncated, {} bytes of at least {} for the pixels",
          name, have, fewest);
  TgaSource source{file};
  stbi_io_callbacks callbacks{read, skip, at_end};
  stbi__context context;
  stbi__start_callbacks(&context, &callbacks, &source);
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, Free> pixels(
      stbi__load_and_postprocess_8bit(&context, &width, &height, &channels, 0));
  const char* why = stbi_failure_reason();
  require(pixels != nullptr, Failure::data, "{}: {}", name, why ? why : "no TGA");
  const auto unused = static_cast<size_t>(context.img_buffer_end - context.img_buffer);
  require(source.position - unused <= file.size(), Failure::data, "{}: truncated, {} bytes", name,
          file.size());
  return picture_of(tga, pixels.get(), channels);
}

ImageInfo inspect_tga(std::span<const std::byte> file, std::string_view name) {
  const Tga tga = read_tga_header(file, name);
  check_image_size(tga.width, tga.height, name);
  return {.format = "tga",
          .width = tga.width,
          .height = tga.height,
          .channels = tga.channels(),
          .alpha = tga.depth == 32 || (tga.kind == kGray && tga.depth == 16)};
}

}  // namespace engine

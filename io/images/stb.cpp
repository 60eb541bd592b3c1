// BMP, GIF and TGA through stb_image, which only this file compiles. stb reads a file that ends
// early as if zeros followed; here a file is truncated if more bytes were used than it has.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_ONLY_TGA
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS 65500
#include <stb/stb_image.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <memory>

#include "engine/error.h"
#include "io/images/decoders.h"

namespace engine {
namespace {

static_assert(STBI_MAX_DIMENSIONS == kMaxImageSide);

// A file that zeros without end follow, and how far into it stb has read.
struct Source {
  std::span<const std::byte> file;
  size_t position = 0;
};

int read(void* user, char* to, int size) {
  auto& source = *static_cast<Source*>(user);
  const size_t start = std::min(source.position, source.file.size());
  const size_t count = std::min(size_t(size), source.file.size() - start);
  std::memcpy(to, source.file.data() + start, count);
  std::memset(to + count, 0, size_t(size) - count);
  source.position += size_t(size);
  return size;
}

void skip(void* user, int size) {
  static_cast<Source*>(user)->position += size_t(size);
}

int at_end(void* user) {
  const auto& source = *static_cast<const Source*>(user);
  return source.position >= source.file.size();
}

// The reason that stb left for this thread; some failures leave none.
const char* failure_reason() {
  const char* reason = stbi_failure_reason();
  return reason ? reason : "not an image of a known format";
}

struct Free {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

}  // namespace

Image decode_stb(std::span<const std::byte> file, std::string_view name) {
  require(file.size() <= INT_MAX, Failure::data, "{}: {} bytes", name, file.size());
  int width = 0, height = 0, channels = 0;
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  require(stbi_info_from_memory(bytes, int(file.size()), &width, &height, &channels) != 0,
          Failure::data, "{}: {}", name, failure_reason());
  check_image_size(width, height, name);

  const int kept = channels >= 3 ? 3 : 1;  // 2 and 4 have alpha
  Source source{file};
  stbi_io_callbacks callbacks{read, skip, at_end};
  stbi__context context;
  stbi__start_callbacks(&context, &callbacks, &source);
  const std::unique_ptr<stbi_uc, Free> pixels(
      stbi__load_and_postprocess_8bit(&context, &width, &height, &channels, kept));
  require(pixels != nullptr, Failure::data, "{}: {}", name, failure_reason());
  const size_t unused = size_t(context.img_buffer_end - context.img_buffer);
  require(source.position - unused <= file.size(), Failure::data, "{}: truncated file of {} bytes",
          name, file.size());

  Image image(width, height, kept);
  std::memcpy(image.pixels.data(), pixels.get(), image.pixels.size());
  return image;
}

ImageInfo inspect_stb(std::span<const std::byte> file, std::string_view name) {
  ImageInfo info;
  int channels = 0;
  const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
  const int size = static_cast<int>(std::min<size_t>(file.size(), INT_MAX));
  require(stbi_info_from_memory(bytes, size, &info.width, &info.height, &channels) != 0,
          Failure::data, "{}: {}", name, failure_reason());
  info.format = starts_with(file, "GIF") ? "gif" : starts_with(file, "BM") ? "bmp" : "tga";
  info.alpha = channels % 2 == 0 && info.format != "gif";  // stb says 4 channels of every GIF
  info.channels = channels >= 3 ? 3 : 1;
  return info;
}

}  // namespace engine

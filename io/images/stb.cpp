// The one file that compiles stb_image and stb_image_write. stb reads on as if zeros followed a file
// that ends early; here a file is truncated if more bytes were used than it has. PNG checksums, which
// stb skips, are checked as well.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_ONLY_PNG
#define STBI_ONLY_TGA
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS 65500
#include <stb/stb_image.h>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

#include <zlib.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/encode.h"

namespace engine {
namespace {

static_assert(STBI_MAX_DIMENSIONS == kMaxImageSide);

// A file with zeros behind it without end, and how far into it stb has asked.
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

uint32_t big_endian(const std::byte* bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | std::to_integer<uint32_t>(bytes[i]);
  return value;
}

// Chunks: length, type, data, CRC of type and data. A lower-case type marks one to ignore freely.
void check_png(std::span<const std::byte> file, std::string_view name) {
  constexpr size_t kFrame = 12;
  for (size_t at = 8;;) {
    require(file.size() >= at + kFrame, Failure::data, "{}: truncated PNG file of {} bytes", name,
            file.size());
    const uint32_t length = big_endian(&file[at]);
    require(file.size() - at - kFrame >= length, Failure::data,
            "{}: truncated PNG file of {} bytes", name, file.size());
    const auto* type = reinterpret_cast<const Bytef*>(&file[at + 4]);
    const bool critical = type[0] < 'a';
    require(!critical || crc32(0, type, length + 4) == big_endian(&file[at + 8 + length]),
            Failure::data, "{}: corrupt PNG file, checksum of the {:.4} chunk at byte {}", name,
            std::string_view(reinterpret_cast<const char*>(type), 4), at);
    if (std::memcmp(type, "IEND", 4) == 0) return;
    at += kFrame + length;
  }
}

// stb's reason of this thread; some failures leave none.
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
  if (file.size() >= 8 && std::memcmp(bytes, "\x89PNG", 4) == 0) check_png(file, name);
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
  const auto starts_with = [&](std::string_view magic) {
    return file.size() >= magic.size() && std::memcmp(bytes, magic.data(), magic.size()) == 0;
  };
  info.format = starts_with("\x89PNG") ? "png"
                : starts_with("GIF")   ? "gif"
                : starts_with("BM")    ? "bmp"
                                       : "tga";
  info.alpha = channels % 2 == 0 && info.format != "gif";  // of a GIF stb always says 4
  info.channels = channels >= 3 ? 3 : 1;
  info.bits = stbi_is_16_bit_from_memory(bytes, size) != 0 ? 16 : 8;
  return info;
}

std::vector<std::byte> encode_png(const Image& image) {
  std::vector<std::byte> file;
  const auto append = [](void* user, void* data, int size) {
    auto& out = *static_cast<std::vector<std::byte>*>(user);
    const auto* bytes = static_cast<const std::byte*>(data);
    out.insert(out.end(), bytes, bytes + size);
  };
  const int written = stbi_write_png_to_func(append, &file, image.width, image.height,
                                             image.channels, image.pixels.data(), 0);
  require(written != 0, Failure::internal, "PNG encoding of {}x{} pixels failed", image.width,
          image.height);
  return file;
}

}  // namespace engine

#include "io/data/source_file.h"

#include <sys/stat.h>

#include "engine/error.h"
#include "io/files/checksum.h"
#include "io/images/decode.h"

namespace engine {

SourceFile source_file(const PackSource& source) {
  if (source.image) return {.size = source.image->pixels.size()};
  struct stat status;
  if (stat(source.path.c_str(), &status) != 0) return {};
  constexpr int64_t kSecond = 1'000'000'000;
  return {.size = static_cast<uint64_t>(status.st_size),
          .modified = status.st_mtim.tv_sec * kSecond + status.st_mtim.tv_nsec};
}

uint64_t content_hash(const PackSource& source) {
  if (source.image) return xxh64(std::as_bytes(std::span(source.image->pixels)));
  try {
    return xxh64(read_image_bytes(source.path));
  } catch (const Error&) {
    return 0;
  }
}

SourcePicture read_source(const PackSource& source, int channels) {
  if (source.image) return {convert_channels(*source.image, channels), content_hash(source)};
  const std::vector<std::byte> bytes = read_image_bytes(source.path);
  return {decode(bytes, source.path, channels), xxh64(bytes)};
}

}  // namespace engine

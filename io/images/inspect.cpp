#include "io/images/inspect.h"

#include "engine/error.h"
#include "io/images/decoders.h"

namespace engine {

ImageInfo inspect_image(std::span<const std::byte> file, std::string_view name) {
  require(!file.empty(), Failure::data, "{}: the file is empty", name);
  if (starts_with(file, kJpegMagic)) return inspect_jpeg(file, name);
  if (starts_with(file, kPngMagic)) return inspect_png(file, name);
  if (starts_with(file, "P5") || starts_with(file, "P6")) return inspect_pnm(file, name);
  return inspect_stb(file, name);
}

}  // namespace engine

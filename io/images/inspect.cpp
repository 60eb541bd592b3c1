#include "io/images/inspect.h"

#include <cstring>

#include "engine/error.h"
#include "io/images/decoders.h"

namespace engine {

ImageInfo inspect_image(std::span<const std::byte> file, std::string_view name) {
  require(!file.empty(), Failure::data, "{}: the file is empty", name);
  const auto starts_with = [&](std::string_view magic) {
    return file.size() >= magic.size() && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
  };
  if (starts_with("\xff\xd8\xff")) return inspect_jpeg(file, name);
  if (starts_with("P5") || starts_with("P6")) return inspect_pnm(file, name);
  return inspect_stb(file, name);
}

}  // namespace engine

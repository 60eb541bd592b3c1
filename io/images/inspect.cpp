#include "io/images/inspect.h"

#include "io/images/formats.h"

namespace engine {

ImageInfo inspect_image(std::span<const std::byte> file, std::string_view name) {
  return format_of(file, name).inspect(file, name);
}

}  // namespace engine

// The formats that are read, as one table, and those that are known by name only.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "io/images/image.h"
#include "io/images/inspect.h"

namespace engine {

struct Format {
  std::string_view name;
  bool (*matches)(std::span<const std::byte> file);  // by the first bytes
  Image (*decode)(std::span<const std::byte> file, std::string_view name);
  ImageInfo (*inspect)(std::span<const std::byte> file, std::string_view name);
};

// The format of a file, told by its first bytes. An Error(data) begins with `name`, and says which
// format it is if that is one that we know but do not read. TGA, which has no magic bytes, is what
// is left: its decoder says if it is no picture at all.
const Format& format_of(std::span<const std::byte> file, std::string_view name);

}  // namespace engine

// Pixels to image files, for test pictures and synthetic data sets.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "io/images/image.h"

namespace engine {

// Quality 1 to 100, chroma at half size.
std::vector<std::byte> encode_jpeg(const Image& image, int quality);
std::vector<std::byte> encode_png(const Image& image);

// JPEG for .jpg, .jpeg and .JPEG, PNG for .png.
void write_image(const std::filesystem::path& path, const Image& image, int quality = 90);

}  // namespace engine

// Pixels to image files, for contact sheets, synthetic data sets and tests.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "io/images/image.h"

namespace engine {

// The quality is 1 to 100; chroma is stored at half size.
std::vector<std::byte> encode_jpeg(const Image& image, int quality);
std::vector<std::byte> encode_png(const Image& image);

// The extension tells the format: .jpg, .jpeg or .png, in upper or lower case; another one is an
// Error(usage). Written as write_file_atomically() does.
void write_image(const std::filesystem::path& path, const Image& image, int quality = 90);

}  // namespace engine

// Runs pillow.py, which computes with PIL and torchvision what io/ must equal.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/images/image.h"

namespace engine::test {

// Debian's Python with the given module; $ENGINE_PYTHON names another one.
bool has_python_module(const std::string& module);

// Runs pillow.py VERB FOLDER, and fails the test unless it succeeds.
void run_pillow(const std::string& verb, const std::filesystem::path& folder);

// Raw pictures, by which the two programs exchange pixels: "width height channels\n", then the
// bytes.
Image read_raw(const std::filesystem::path& path);
void write_raw(const std::filesystem::path& path, const Image& image);

// `count` of the photographs under `folder`, evenly spread over their sorted paths, or all if there
// are fewer.
std::vector<std::filesystem::path> photographs(const std::filesystem::path& folder, size_t count);

// Noise from a linear congruential generator that pillow.py knows too.
Image noise_image(int width, int height, int channels, uint32_t seed);

// Whether the sizes are equal and no byte differs.
bool same_pixels(const Image& a, const Image& b);

}  // namespace engine::test

// The data set that was meant by a folder that is none.
#pragma once

#include <filesystem>

namespace engine {

// The folder that was meant by one without a folder of images to train with: the one above it, of
// which it is a part, or the only one in it that has such a folder. Empty: neither.
std::filesystem::path likely_folder(const std::filesystem::path& root);

}  // namespace engine

#include "tests/io/images/pillow.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace engine::test {
namespace {

std::string python() {
  const char* chosen = std::getenv("ENGINE_PYTHON");
  return chosen ? chosen : "/usr/bin/python3";
}

}  // namespace

bool has_python_module(const std::string& module) {
  // Found, not imported: torch takes seconds for that.
  const std::string find =
      "from importlib.util import find_spec; exit(find_spec(\"" + module + "\") is None)";
  return std::system((python() + " -c '" + find + "' 2>/dev/null").c_str()) == 0;
}

void run_pillow(const std::string& verb, const std::filesystem::path& folder) {
  const std::string command = python() + " '" ENGINE_SOURCE_DIR "/tests/io/images/pillow.py' " +
                              verb + " '" + folder.string() + "'";
  INFO(command);
  REQUIRE(std::system(command.c_str()) == 0);
}

Image read_raw(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  int width = 0, height = 0, channels = 0;
  stream >> width >> height >> channels;
  stream.get();
  Image image(width, height, channels);
  stream.read(reinterpret_cast<char*>(image.pixels.data()), std::streamsize(image.pixels.size()));
  INFO(path.string());
  REQUIRE(stream.good());
  return image;
}

void write_raw(const std::filesystem::path& path, const Image& image) {
  std::ofstream stream(path, std::ios::binary);
  stream << image.width << ' ' << image.height << ' ' << image.channels << '\n';
  stream.write(reinterpret_cast<const char*>(image.pixels.data()),
               std::streamsize(image.pixels.size()));
}

std::vector<std::filesystem::path> photographs(const std::filesystem::path& folder, size_t count) {
  std::vector<std::filesystem::path> all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.path().extension() == ".jpg") all.push_back(entry.path());
  std::sort(all.begin(), all.end());
  if (all.size() <= count) return all;
  std::vector<std::filesystem::path> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(all[i * all.size() / count]);
  return chosen;
}

Image noise_image(int width, int height, int channels, uint32_t seed) {
  Image image(width, height, channels);
  for (uint8_t& value : image.pixels) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<uint8_t>(seed >> 24);
  }
  return image;
}

bool same_pixels(const Image& a, const Image& b) {
  return a.width == b.width && a.height == b.height && a.channels == b.channels &&
         a.pixels == b.pixels;
}

}  // namespace engine::test

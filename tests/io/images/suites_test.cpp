// The image suites of other projects, of which Pillow's, libjpeg-turbo's and stb's are meant,
// beside Pillow. They are not in the repository: $ENGINE_IMAGE_SUITES names a folder with them. The
// counts may only become better.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/images/decode.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// Pillow's names of the formats that are read here; MPO is JPEG with several pictures.
const std::set<std::string> kOurs = {"BMP", "GIF", "JPEG", "MPO", "PNG",
                                     "PPM", "TGA", "TIFF", "WEBP"};

// Files of these formats that Pillow reads and that are refused on purpose, by their names.
const std::set<std::string> kDamaged = {
    "hopper_bad_exif.jpg",                                 // a Huffman code that does not exist
    "issue_2811.gif",                                      // codes of 12 bits to begin with
    "xcsn0g01.png",                                        // a wrong checksum
    "crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif",  // bad fax codes
    "crash-74d2a78403a5a59db1fb0a2b8735ac068a75f6e3.tif",
};

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

// What Pillow reads: the format, by the file.
std::map<std::string, std::string> read_by_pillow(const fs::path& list) {
  std::map<std::string, std::string> formats;
  std::ifstream in(list);
  for (std::string line; std::getline(in, line);) {
    const size_t bar = line.rfind('|');
    formats[line.substr(0, bar)] = line.substr(bar + 1);
  }
  return formats;
}

std::optional<Image> read_by_us(const fs::path& file) {
  try {
    return read_image(file, 3);
  } catch (const Error& error) {
    CHECK(error.kind == Failure::data);
    return std::nullopt;
  }
}

}  // namespace

TEST_CASE("the suites of Pillow, libjpeg-turbo and stb") {
  const char* suites = std::getenv("ENGINE_IMAGE_SUITES");
  if (!suites) return note_skipped("ENGINE_IMAGE_SUITES names no folder");
  if (!has_python_module("PIL")) return note_skipped("no Python with PIL");
  const std::vector<fs::path> files = files_below(suites);
  const TemporaryFolder folder;
  std::ofstream list(folder.path() / "files.txt");
  for (size_t i = 0; i < files.size(); ++i)
    list << files[i].string() << '|' << (folder.path() / std::to_string(i)).string() << '\n';
  list.close();
  run_pillow("suite", folder.path());
  const auto pillow = read_by_pillow(folder.path() / "read.txt");

  int equal = 0, neither = 0, ours_alone = 0, other_formats = 0, damaged = 0;
  std::vector<std::string> different, refused;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::optional<Image> ours = read_by_us(files[i]);
    const auto theirs = pillow.find(files[i].string());
    if (theirs == pillow.end()) {
      ++(ours ? ours_alone : neither);
    } else if (ours) {
      const Image expected = convert_channels(read_raw(folder.path() / std::to_string(i)), 3);
      same_pixels(*ours, expected) ? void(++equal) : different.push_back(files[i].string());
    } else if (!kOurs.contains(theirs->second)) {
      ++other_formats;
    } else if (kDamaged.contains(files[i].filename().string())) {
      ++damaged;
    } else {
      refused.push_back(files[i].string());
    }
  }
  fmt::print(
      "{} files: {} equal, {} different, {} refused by us alone, {} more because they are "
      "damaged, {} read by us alone, {} of other formats, {} read by nobody\n",
      files.size(), equal, different.size(), refused.size(), damaged, ours_alone, other_formats,
      neither);
  for (const std::string& file : different) MESSAGE("different: " << file);
  for (const std::string& file : refused) MESSAGE("refused: " << file);
  CHECK(equal > 0);
  CHECK(different.empty());
  CHECK(refused.size() <= 10);
}

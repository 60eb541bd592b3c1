#include "io/images/contact_sheet.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

#include "engine/error.h"
#include "io/files/utf8.h"
#include "io/images/decode.h"
#include "io/images/text.h"

namespace engine {
namespace {

constexpr int kGap = 4, kLineHeight = 16, kFontSize = 11;  // pixels

// What is cut ends in dots.
std::u32string cut_to(std::u32string text, int width, const Font& font) {
  if (font.width(text) <= width) return text;
  while (!text.empty() && font.width(text + U'…') > width) text.pop_back();
  return text + U'…';
}

}  // namespace

Image enlarge_to_at_least(const Image& image, int side) {
  const int shorter = std::min(image.width, image.height);
  const int factor = shorter > 0 ? std::max(1, (side + shorter - 1) / shorter) : 1;
  if (factor == 1) return image;
  Image large(image.width * factor, image.height * factor, image.channels);
  for (int y = 0; y < large.height; ++y)
    for (int x = 0; x < large.width; ++x)
      std::copy_n(image.row(y / factor) + size_t(x / factor) * image.channels, image.channels,
                  large.row(y) + size_t(x) * image.channels);
  return large;
}

Image contact_sheet(std::span<const Image> pictures, std::span<const std::string> texts,
                    const std::filesystem::path& font_file, int columns) {
  require(!pictures.empty() && pictures.size() == texts.size(), Failure::internal,
          "a contact sheet of {} pictures and {} texts", pictures.size(), texts.size());
  const int count = static_cast<int>(pictures.size());
  if (columns <= 0) columns = static_cast<int>(std::ceil(std::sqrt(count)));
  columns = std::min(columns, count);
  const int rows = (count + columns - 1) / columns;
  int lines = 1;
  for (const std::string& text : texts)
    lines = std::max(lines, 1 + static_cast<int>(std::ranges::count(text, '\n')));
  const int width = pictures[0].width + kGap,
            height = pictures[0].height + lines * kLineHeight + kGap;
  Image sheet(kGap + columns * width, kGap + rows * height, 3);
  std::fill(sheet.pixels.begin(), sheet.pixels.end(), uint8_t{255});
  const Font font(font_file, kFontSize, fallback_fonts());
  for (int i = 0; i < count; ++i) {
    const Image picture = convert_channels(pictures[size_t(i)], 3);
    const int left = kGap + i % columns * width, top = kGap + i / columns * height;
    for (int y = 0; y < picture.height; ++y)
      std::copy_n(picture.row(y), size_t(picture.width) * 3, sheet.row(top + y) + size_t(left) * 3);
    std::istringstream text(texts[size_t(i)]);
    int baseline = top + picture.height - 4;
    for (std::string line; std::getline(text, line);)
      font.draw(sheet, left, baseline += kLineHeight,
                cut_to(decode_utf8(line), picture.width, font));
  }
  return sheet;
}

}  // namespace engine

#include "io/images/contact_sheet.h"

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <sstream>
#include <vector>

#include "engine/error.h"
#include "io/images/decode.h"

namespace engine {
namespace {

constexpr int kGap = 4, kLineHeight = 16;  // pixels
constexpr int kFont = cv::FONT_HERSHEY_PLAIN;
constexpr double kFontScale = 0.8;

std::string cut_to(std::string text, int width) {
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  int baseline = 0;
  while (!text.empty() && cv::getTextSize(text, kFont, kFontScale, 1, &baseline).width > width)
    text.pop_back();
  return text;
}

}  // namespace

Image contact_sheet(std::span<const Image> pictures, std::span<const std::string> texts,
                    int columns) {
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
  cv::Mat canvas(sheet.height, sheet.width, CV_8UC3, sheet.pixels.data());
  for (int i = 0; i < count; ++i) {
    const Image picture = convert_channels(pictures[size_t(i)], 3);
    const int left = kGap + i % columns * width, top = kGap + i / columns * height;
    for (int y = 0; y < picture.height; ++y)
      std::copy_n(picture.row(y), size_t(picture.width) * 3, sheet.row(top + y) + size_t(left) * 3);
    std::istringstream text(texts[size_t(i)]);
    int bottom = top + picture.height - 4;
    for (std::string line; std::getline(text, line);)
      cv::putText(canvas, cut_to(line, picture.width), {left, bottom += kLineHeight}, kFont,
                  kFontScale, {0, 0, 0}, 1, cv::LINE_AA);
  }
  return sheet;
}

}  // namespace engine

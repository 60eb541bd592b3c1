#include "tools/predict/explanation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <system_error>

#include "engine/error.h"
#include "io/files/csv.h"
#include "io/images/contact_sheet.h"
#include "io/images/decode.h"
#include "io/images/encode.h"
#include "io/images/resize.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr int kSideInSheet = 224;  // a larger picture is reduced to it

fs::path empty_folder(const fs::path& folder) {
  make_folder(folder);
  std::error_code error;
  require(fs::is_empty(folder, error) && !error, Failure::usage, "--explain {}: is not empty",
          folder.string());
  return folder;
}

// Left and right of a gap.
Image beside(const Image& left, const Image& right) {
  constexpr int kGap = 2;
  Image both(left.width + kGap + right.width, left.height, 3);
  std::ranges::fill(both.pixels, uint8_t{255});
  for (int y = 0; y < both.height; ++y) {
    std::copy_n(left.row(y), size_t(left.width) * 3, both.row(y));
    std::copy_n(right.row(y), size_t(right.width) * 3, both.row(y) + size_t(left.width + kGap) * 3);
  }
  return both;
}

Image for_sheet(const Image& image) {
  return image.width <= kSideInSheet
             ? enlarge_to_at_least(image, kLegibleSide)
             : resize(image, kSideInSheet, kSideInSheet, Interpolation::bilinear);
}

// A name of a file is at most 255 bytes long.
std::string picture_name(const Prediction& p) {
  return fmt::format("{:06}-{}.png", p.position + 1,
                     fs::path(p.path).stem().string().substr(0, 200));
}

}  // namespace

ExplanationFolder::ExplanationFolder(const fs::path& folder, int height, int width,
                                     std::vector<std::string> classes, fs::path font)
    : folder_(empty_folder(folder)),
      classes_(std::move(classes)),
      font_(std::move(font)),
      maps_(folder / "maps.npy", {height, width}),
      table_(folder / "maps.csv") {
  table_.write("path,picture,class,class_index,probability,lowest,highest\n");
}

Explanation ExplanationFolder::draw(const Image& picture, ActivationMap map, int class_index,
                                    const Prediction& prediction) const {
  const Image over = overlay(picture, map);
  Explanation made{.map = std::move(map),
                   .class_index = class_index,
                   .file = picture_name(prediction),
                   .shown = beside(for_sheet(convert_channels(picture, 3)), for_sheet(over))};
  write_new_file(folder_ / made.file, encode_png(over));
  return made;
}

void ExplanationFolder::append(Explanation explanation, const Prediction& p) {
  const std::vector<float>& values = explanation.map.values;
  const auto [low, high] = std::ranges::minmax(values);
  const auto probability = [&](int c) { return p.probabilities[size_t(c)]; };
  const int shown = explanation.class_index;
  maps_.append(values);
  table_.write(fmt::format("{},{},{},{},{:.6f},{},{}\n", csv_field(p.path),
                           csv_field(explanation.file), csv_field(class_name(classes_, shown)),
                           shown, probability(shown), low, high));
  // The class of the map first, then the others that are probable.
  const fs::path path(p.path);
  std::string text = (path.parent_path().filename() / path.filename()).string();
  const auto line = [&](int c, std::string_view what) {
    text += fmt::format("\n{} {:.1f}%{}", class_name(classes_, c), 100 * probability(c), what);
  };
  line(shown, shown == p.best() ? "" : ", whose map this is");
  for (const int c : p.ranked)
    if (c != shown && std::ranges::count(text, '\n') < 3) line(c, "");
  shown_.push_back(std::move(explanation.shown));
  texts_.push_back(std::move(text));
  if (static_cast<int>(shown_.size()) == kImagesOfSheet) write_sheet();
}

void ExplanationFolder::write_sheet() {
  if (shown_.empty()) return;
  ++sheets_;
  const std::string name = sheets_ == 1 ? "sheet.png" : fmt::format("sheet-{}.png", sheets_);
  // Cells are twice as wide as they are high.
  const int columns = static_cast<int>(std::ceil(std::sqrt(double(shown_.size()) / 2)));
  write_image(folder_ / name, contact_sheet(shown_, texts_, font_, columns));
  shown_.clear();
  texts_.clear();
}

void ExplanationFolder::commit() {
  write_sheet();
  table_.commit();
  maps_.commit();
}

}  // namespace engine

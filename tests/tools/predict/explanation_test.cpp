// The folder of --explain: pictures, sheets, maps and their table, in bounded memory.
#include "tools/predict/explanation.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <fstream>

#include "io/files/csv.h"
#include "io/images/decode.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

constexpr int kSide = 32, kShown = 5 * kSide;  // enlarged for the sheet

Prediction prediction_of(const std::string& path, int64_t position) {
  const std::vector<float> logits = {0, 2, 1};
  const std::span<const float> view = logits;
  Prediction p = predict_image(std::span(&view, 1), 3);
  p.path = path;
  p.position = position;
  return p;
}

}  // namespace

TEST_CASE("an explained image is a picture, a row and a cell of a sheet") {
  const TemporaryFolder folder;
  const fs::path out = folder.path() / "maps";
  const std::vector<std::string> classes = {"nävus", "黑色素瘤", "c"};
  constexpr int kImages = ExplanationFolder::kImagesOfSheet + 1;
  {
    ExplanationFolder explanation(out, 1, 2, classes, ENGINE_FONT);
    for (int i = 0; i < kImages; ++i) {
      Image picture(kSide, kSide, i % 2 ? 1 : 3);
      const Prediction p = prediction_of(fmt::format("/x/bild{}.jpg", i), i);
      explanation.append(explanation.draw(picture, {1, 2, {-1.f, float(i)}}, i == 3 ? 0 : 1, p), p);
    }
    CHECK(fs::exists(out / "sheet.png"));  // as soon as it is full
    CHECK_FALSE(fs::exists(out / "maps.csv"));
    explanation.commit();
  }
  const Csv table = read_csv(out / "maps.csv");
  CHECK(table.header == std::vector<std::string>{"path", "picture", "class", "class_index",
                                                 "probability", "lowest", "highest"});
  REQUIRE(table.rows.size() == kImages);
  CHECK(table.rows[3].fields == std::vector<std::string>{"/x/bild3.jpg", "000004-bild3.png",
                                                         "nävus", "0", "0.090031", "-1", "3"});
  CHECK(table.rows[4].fields[2] == "黑色素瘤");
  const Image picture = read_image(out / "000004-bild3.png", 3);
  const Image expected = overlay(Image(kSide, kSide, 1), {1, 2, {-1.f, 3.f}});
  CHECK(same_pixels(picture, expected));
  CHECK(fs::file_size(out / "maps.npy") == 128 + kImages * 2 * sizeof(float));
  const Image sheet = read_image(out / "sheet.png", 3), second = read_image(out / "sheet-2.png", 3);
  CHECK(sheet.width > 5 * 2 * kShown);
  CHECK(second.width > 2 * kShown);
  CHECK(second.width < 3 * kShown);
  CHECK(mentions(
      message_of([&] { ExplanationFolder(out, 1, 2, classes, ENGINE_FONT); }, Failure::usage),
      "is not empty"));
}

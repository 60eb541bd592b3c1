#include "io/images/text.h"

#include <ft2build.h>

#include <freetype/freetype.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "engine/error.h"

namespace engine {
namespace {

constexpr FT_Int32 kOutline = FT_LOAD_NO_BITMAP;  // a bitmap in the font may have another format

// FreeType's metrics are in 64ths of a pixel; hinted advances are whole pixels.
int advance(const FT_GlyphSlot glyph) {
  return static_cast<int>(glyph->advance.x / 64);
}

// Darkens the pixels by the coverage of the glyph, whose origin is at (left, baseline).
void paint(Image& image, int left, int baseline, const FT_GlyphSlot glyph) {
  const FT_Bitmap& coverage = glyph->bitmap;
  left += glyph->bitmap_left;
  const int top = baseline - glyph->bitmap_top;
  const int first_row = std::max(0, -top), first_column = std::max(0, -left);
  const int rows = std::min(int(coverage.rows), image.height - top);
  const int columns = std::min(int(coverage.width), image.width - left);
  for (int y = first_row; y < rows; ++y)
    for (int x = first_column; x < columns; ++x) {
      uint8_t* pixel = image.row(top + y) + (left + x) * image.channels;
      const int light = 255 - coverage.buffer[y * coverage.pitch + x];
      for (int c = 0; c < image.channels; ++c)
        pixel[c] = static_cast<uint8_t>(pixel[c] * light / 255);
    }
}

// Joiners, direction marks, variation selectors.
bool is_invisible(char32_t c) {
  return (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) ||
         (c >= 0x2060 && c <= 0x2064) || (c >= 0xFE00 && c <= 0xFE0F) || c == 0xFEFF ||
         (c >= 0xE0100 && c <= 0xE01EF);
}

// Where Debian, Fedora and Arch put them.
constexpr const char* kFallbacks[] = {"opentype/noto/NotoSansCJK-Regular.ttc",
                                      "google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc",
                                      "google-noto-cjk/NotoSansCJK-Regular.ttc",
                                      "noto-cjk/NotoSansCJK-Regular.ttc",
                                      "truetype/droid/DroidSansFallbackFull.ttf",
                                      "truetype/wqy/wqy-microhei.ttc",
                                      "truetype/wqy/wqy-zenhei.ttc",
                                      "truetype/noto/NotoEmoji-Regular.ttf",
                                      "truetype/ancient-scripts/Symbola_hint.ttf"};

}  // namespace

std::vector<std::filesystem::path> fallback_fonts() {
  std::vector<std::filesystem::path> there;
  for (const char* name : kFallbacks) {
    std::error_code error;
    const std::filesystem::path file = std::filesystem::path("/usr/share/fonts") / name;
    if (std::filesystem::is_regular_file(file, error)) there.push_back(file);
  }
  return there;
}

void Font::Free::operator()(FT_LibraryRec_* library) const {
  FT_Done_FreeType(library);
}

void Font::Free::operator()(FT_FaceRec_* face) const {
  FT_Done_Face(face);
}

Font::Font(const std::filesystem::path& file, int size,
           std::vector<std::filesystem::path> fallbacks)
    : size_(size), unopened_(std::move(fallbacks)) {
  FT_Library library = nullptr;
  require(FT_Init_FreeType(&library) == 0, Failure::internal, "FreeType does not start");
  library_.reset(library);
  FT_Face face = nullptr;
  const FT_Error status = FT_New_Face(library, file.c_str(), 0, &face);
  require(status == 0, Failure::data, "{}: FreeType cannot read the font, error {}", file.string(),
          status);
  face_.reset(face);
  const FT_Error unsized = FT_Set_Pixel_Sizes(face, 0, static_cast<FT_UInt>(size));
  require(unsized == 0, Failure::data, "{}: the font has no size of {} pixels, FreeType's error {}",
          file.string(), size, unsized);
}

FT_FaceRec_* Font::face_of(char32_t character) const {
  const auto has = [&](const Face& face) { return FT_Get_Char_Index(face.get(), character) != 0; };
  if (has(face_)) return face_.get();
  for (const Face& face : fallbacks_)
    if (has(face)) return face.get();
  while (!unopened_.empty()) {
    FT_Face opened = nullptr;
    const bool failed = FT_New_Face(library_.get(), unopened_.front().c_str(), 0, &opened) != 0;
    unopened_.erase(unopened_.begin());
    if (failed) continue;
    Face face(opened);
    if (FT_Set_Pixel_Sizes(opened, 0, static_cast<FT_UInt>(size_)) != 0) continue;
    fallbacks_.push_back(std::move(face));
    if (has(fallbacks_.back())) return opened;
  }
  return face_.get();
}

FT_FaceRec_* Font::load(char32_t character, int flags) const {
  if (is_invisible(character)) return nullptr;
  FT_FaceRec_* const face = face_of(character);
  return FT_Load_Char(face, character, flags) == 0 ? face : nullptr;
}

int Font::width(std::u32string_view text) const {
  int width = 0;
  for (const char32_t character : text)
    if (const FT_FaceRec_* face = load(character, kOutline)) width += advance(face->glyph);
  return width;
}

void Font::draw(Image& image, int left, int baseline, std::u32string_view text) const {
  for (const char32_t character : text) {
    const FT_FaceRec_* face = load(character, kOutline | FT_LOAD_RENDER);
    if (!face) continue;
    paint(image, left, baseline, face->glyph);
    left += advance(face->glyph);
  }
}

}  // namespace engine

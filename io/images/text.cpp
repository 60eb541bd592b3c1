#include "io/images/text.h"

#include <ft2build.h>

#include <freetype/freetype.h>

#include <algorithm>

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

}  // namespace

void Font::Free::operator()(FT_LibraryRec_* library) const {
  FT_Done_FreeType(library);
}

void Font::Free::operator()(FT_FaceRec_* face) const {
  FT_Done_Face(face);
}

Font::Font(const std::filesystem::path& file, int size) {
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

int Font::width(std::u32string_view text) const {
  int width = 0;
  for (const char32_t character : text)
    if (FT_Load_Char(face_.get(), character, kOutline) == 0) width += advance(face_->glyph);
  return width;
}

void Font::draw(Image& image, int left, int baseline, std::u32string_view text) const {
  for (const char32_t character : text) {
    if (FT_Load_Char(face_.get(), character, kOutline | FT_LOAD_RENDER) != 0) continue;
    paint(image, left, baseline, face_->glyph);
    left += advance(face_->glyph);
  }
}

}  // namespace engine

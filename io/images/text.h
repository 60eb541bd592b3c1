// Text on pictures, in the glyphs of a font file.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "io/images/image.h"

// FreeType's FT_Library and FT_Face point to these.
struct FT_LibraryRec_;
struct FT_FaceRec_;

namespace engine {

// Fonts that systems have at known places and that hold what DejaVu lacks: Chinese, Japanese,
// Korean, pictures. Those that are here, the best first.
std::vector<std::filesystem::path> fallback_fonts();

// A font at one size. A character that it lacks is taken from the first of the fallbacks that has
// it; what none has is drawn as the font's empty box. Characters that only tell how others are
// joined or shown are not drawn. Characters stand from left to right, each as it is alone: scripts
// that run the other way or join their letters are legible, not beautiful.
class Font {
 public:
  // A TrueType or OpenType file; `size` is in pixels per em. Error(data), which names the file,
  // unless FreeType can read it. Fallbacks are opened when a character is not in the font, and
  // those that cannot be read are passed over.
  Font(const std::filesystem::path& file, int size,
       std::vector<std::filesystem::path> fallbacks = {});

  // The sum of the advances of the characters, in whole pixels.
  int width(std::u32string_view text) const;

  // Draws in black what lies within the picture; (left, baseline) is the pixel at which the text
  // begins.
  void draw(Image& image, int left, int baseline, std::u32string_view text) const;

 private:
  struct Free {
    void operator()(FT_LibraryRec_* library) const;
    void operator()(FT_FaceRec_* face) const;
  };
  using Face = std::unique_ptr<FT_FaceRec_, Free>;
  // The glyph of a character, loaded, or null.
  FT_FaceRec_* load(char32_t character, int flags) const;
  FT_FaceRec_* face_of(char32_t character) const;

  int size_;
  std::unique_ptr<FT_LibraryRec_, Free> library_;
  Face face_;
  mutable std::vector<std::filesystem::path> unopened_;  // fallbacks, the best first
  mutable std::vector<Face> fallbacks_;
};

}  // namespace engine

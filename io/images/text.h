// Text on pictures, in the glyphs of a font file.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "io/images/image.h"

// FreeType's FT_Library and FT_Face point to these.
struct FT_LibraryRec_;
struct FT_FaceRec_;

namespace engine {

// A font at one size. Characters that it lacks are drawn as its empty box.
class Font {
 public:
  // A TrueType or OpenType file; `size` is in pixels per em. Error(data), which names the file,
  // unless FreeType can read it.
  Font(const std::filesystem::path& file, int size);

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
  std::unique_ptr<FT_LibraryRec_, Free> library_;
  std::unique_ptr<FT_FaceRec_, Free> face_;
};

}  // namespace engine

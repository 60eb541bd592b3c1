// Many small pictures with text under each of them, as one picture.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "io/images/image.h"

namespace engine {

// The picture with each pixel as a square of pixels, all of one size, so that the shorter side has
// at least `side` of them. Larger ones stay as they are.
Image enlarge_to_at_least(const Image& image, int side);
inline constexpr int kLegibleSide = 150;  // for pictures of a sheet

// All pictures have one size and number of channels; the result is RGB. A text is UTF-8 and may
// have several lines; what a line cannot hold is cut, and bytes that are not UTF-8 are shown as
// U+FFFD. `font` is a font file; an Error(data) names it if it cannot be read. If `columns` is 0
// the sheet is nearly a square.
Image contact_sheet(std::span<const Image> pictures, std::span<const std::string> texts,
                    const std::filesystem::path& font, int columns = 0);

}  // namespace engine

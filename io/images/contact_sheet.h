// Many small pictures with text under each, as one picture.
#pragma once

#include <span>
#include <string>

#include "io/images/image.h"

namespace engine {

// All pictures have one size and number of channels; the result is RGB. A text may have several
// lines; what a line cannot hold is cut, and characters other than ASCII are shown as '?'. `columns` 0: nearly a square.
Image contact_sheet(std::span<const Image> pictures, std::span<const std::string> texts,
                    int columns = 0);

}  // namespace engine

// The studies of others that `engine scale` repeats.
#pragma once

#include <string_view>

#include "tools/scale/study.h"

namespace engine {

// The flags of a preset; Error(usage) lists the names if there is none of this one.
StudyFlags preset_flags(std::string_view name);

}  // namespace engine

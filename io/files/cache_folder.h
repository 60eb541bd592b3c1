// Where what can be made again is kept from one run to the next.
#pragma once

#include <filesystem>

namespace engine {

// $ENGINE_CACHE_DIR, or engine/ in $XDG_CACHE_HOME, in ~/.cache or, without a home, in the folder
// of temporary files. It may not be there yet.
std::filesystem::path cache_folder();

}  // namespace engine

// Modules: libraries of our own that the program opens on first use, because few runs need what
// they bring along.
#pragma once

#include <string>

namespace engine {

enum class ModuleNames { hidden, shared };  // shared: libraries opened later find them

struct OpenedModule {
  void* entry = nullptr;
  std::string why;  // there is no entry
};

// Opens `file` in lib/ beside the bin/ of this program, or right beside the program: so it lies in
// the build tree, in an installation and in a bundle. `entry` is the C symbol that is wanted. A
// module is never closed: what its libraries leave behind at exit refers to it.
OpenedModule open_module(const char* file, const char* entry,
                         ModuleNames names = ModuleNames::hidden);

}  // namespace engine

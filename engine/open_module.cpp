#include "engine/open_module.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

namespace engine {

OpenedModule open_module(const char* file, const char* entry, ModuleNames names) {
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const int visible = names == ModuleNames::shared ? RTLD_GLOBAL : RTLD_LOCAL;
  for (const auto& folder : {here.parent_path() / "lib", here}) {
    if (!std::filesystem::exists(folder / file)) continue;
    void* library = dlopen((folder / file).c_str(), RTLD_NOW | visible);
    void* symbol = library ? dlsym(library, entry) : nullptr;
    return {symbol, symbol ? "" : dlerror()};
  }
  return {nullptr, fmt::format("{} is neither in {} nor in {}: built without it?", file,
                               (here.parent_path() / "lib").string(), here.string())};
}

}  // namespace engine

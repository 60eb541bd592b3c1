// What the download module offers to the program that opens it: one C symbol, a table of functions.
#pragma once

#include <filesystem>
#include <string>

#include "io/files/download.h"

namespace engine::download_module {

struct Module {
  void (*download)(const std::string& url, const std::filesystem::path& path,
                   const DownloadOptions& options);
};

using ModuleEntry = const Module* (*)();
constexpr const char* kModuleEntry = "engine_download_module";

}  // namespace engine::download_module

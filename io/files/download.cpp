#include "io/files/download.h"

#include "engine/error.h"
#include "engine/open_module.h"
#include "io/download/module.h"

namespace engine {
namespace {

const download_module::Module& opened_module() {
  static const OpenedModule opened =
      open_module("libengine_download.so", download_module::kModuleEntry);
  require(opened.entry, Failure::network, "downloads: {}", opened.why);
  return *reinterpret_cast<download_module::ModuleEntry>(opened.entry)();
}

}  // namespace

void download(const std::string& url, const std::filesystem::path& path,
              const DownloadOptions& options) {
  opened_module().download(url, path, options);
}

}  // namespace engine

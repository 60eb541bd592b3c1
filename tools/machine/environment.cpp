#include "tools/machine/environment.h"

#include <curl/curlver.h>
#include <fmt/format.h>
#include <ft2build.h>
#include FT_FREETYPE_H
#include <gif_lib.h>
#include <jconfig.h>
#include <oneapi/dnnl/dnnl_version.h>
#include <openssl/opensslv.h>
#include <png.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <tiffvers.h>
#include <unistd.h>
#include <webp/decode.h>
#include <zlib.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <opencv2/core/version.hpp>
#include <set>

#include "tools/machine/cores.h"

namespace engine {
namespace {

// The value of the first line of `file` that begins with `key`.
std::string value_in(const char* file, const std::string& key, char separator) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const size_t first = line.find_first_not_of(" \t\"", line.find(separator) + 1);
    const size_t last = line.find_last_not_of(" \"");
    if (first != std::string::npos && last >= first) return line.substr(first, last - first + 1);
  }
  return "unknown";
}

// The different values of "physical id".
int sockets() {
  std::ifstream in("/proc/cpuinfo");
  std::set<std::string> ids;
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("physical id")) ids.insert(line);
  return std::max(1, static_cast<int>(ids.size()));
}

std::string dotted(int major, int minor, int patch) {
  return fmt::format("{}.{}.{}", major, minor, patch);
}

}  // namespace

Host this_host() {
  utsname names{};
  uname(&names);
  struct sysinfo memory {};
  sysinfo(&memory);
  return {.name = names.nodename,
          .os = value_in("/etc/os-release", "PRETTY_NAME", '='),
          .kernel = names.release,
          .cpu = value_in("/proc/cpuinfo", "model name", ':'),
          .cores = available_cores(),
          .sockets = sockets(),
          .memory_gib = static_cast<double>(memory.totalram) * memory.mem_unit / 0x1p30};
}

std::string counted(std::span<const std::string> names) {
  std::vector<std::pair<std::string, int>> counts;
  for (const std::string& name : names) {
    const auto at = std::ranges::find(counts, name, &std::pair<std::string, int>::first);
    if (at == counts.end())
      counts.emplace_back(name, 1);
    else
      ++at->second;
  }
  std::string text;
  for (const auto& [name, count] : counts)
    text += (text.empty() ? "" : ", ") + (count > 1 ? fmt::format("{} x {}", count, name) : name);
  return text;
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  constexpr int jpeg = LIBJPEG_TURBO_VERSION_NUMBER;  // 2001005 is 2.1.5
  const int webp = WebPGetDecoderVersion();           // 0x010204 is 1.2.4
  return {{"oneDNN", dotted(DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, DNNL_VERSION_PATCH)},
          {"OpenCV", CV_VERSION},
          {"libjpeg-turbo", dotted(jpeg / 1'000'000, jpeg / 1000 % 1000, jpeg % 1000)},
          {"libpng", PNG_LIBPNG_VER_STRING},
          {"giflib", dotted(GIFLIB_MAJOR, GIFLIB_MINOR, GIFLIB_RELEASE)},
          {"libtiff", dotted(TIFFLIB_MAJOR_VERSION, TIFFLIB_MINOR_VERSION, TIFFLIB_MICRO_VERSION)},
          {"libwebp", dotted(webp >> 16, webp >> 8 & 0xFF, webp & 0xFF)},
          {"zlib", zlibVersion()},
          {"FreeType", dotted(FREETYPE_MAJOR, FREETYPE_MINOR, FREETYPE_PATCH)},
          {"OpenSSL", OPENSSL_VERSION_STR},
          {"libcurl", LIBCURL_VERSION},
          {"fmt", dotted(FMT_VERSION / 10'000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
          {"nlohmann_json", dotted(NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                   NLOHMANN_JSON_VERSION_PATCH)},
          {"yaml-cpp", ENGINE_YAML_CPP}};
}

std::vector<std::pair<std::string, std::string>> launch_variables() {
  constexpr std::string_view kBeginnings[] = {
      "SLURM_", "OMPI_COMM_WORLD_", "PMI_", "TORCHELASTIC_", "CUDA_", "NCCL_", "OMP_"};
  constexpr std::string_view kNames[] = {
      "RANK",        "WORLD_SIZE",  "LOCAL_RANK",    "LOCAL_WORLD_SIZE",
      "MASTER_ADDR", "MASTER_PORT", "GOMP_SPINCOUNT"};
  std::vector<std::pair<std::string, std::string>> found;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry, name = text.substr(0, text.find('='));
    const bool known =
        std::any_of(std::begin(kBeginnings), std::end(kBeginnings),
                    [&](std::string_view beginning) { return name.starts_with(beginning); }) ||
        std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
    if (known && name.size() < text.size()) found.emplace_back(name, text.substr(name.size() + 1));
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::filesystem::path shared_file(std::string_view name) {
  const std::filesystem::path bin = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  return bin.parent_path() / "share" / "engine" / name;
}

}  // namespace engine

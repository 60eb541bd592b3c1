// The repository's rules, read from its files: who includes whom, sizes, what READMEs name, what
// lies at the top.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

const fs::path kRoot = ENGINE_SOURCE_DIR;

struct Include {
  std::string file;  // from the root
  std::string what;  // as written
  bool quoted = false;
};

// Files of the rooms, from the root, sorted.
std::vector<std::string> files(const std::vector<std::string>& rooms,
                               const std::set<std::string>& extensions) {
  std::vector<std::string> found;
  for (const std::string& room : rooms)
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / room))
      if (entry.is_regular_file() && extensions.contains(entry.path().extension()))
        found.push_back(fs::relative(entry.path(), kRoot).string());
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> lines_of(const std::string& file) {
  std::ifstream in(kRoot / file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

const std::set<std::string> kSources = {".h", ".cuh", ".cpp", ".cu"};
const std::vector<std::string> kRooms = {"engine", "kernels", "models", "io", "tools", "tests"};

std::vector<Include> includes_of(const std::string& file) {
  static const std::regex directive(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"])");
  std::vector<Include> includes;
  for (const std::string& line : lines_of(file))
    if (std::smatch m; std::regex_search(line, m, directive))
      includes.push_back({file, m[2], m[1] == "\""});
  return includes;
}

bool matches(const std::string& text, const std::string& pattern) {
  return std::regex_match(text, std::regex(pattern));
}

// What git keeps, from the root; nothing outside a checkout.
std::vector<std::string> tracked_files() {
  const std::string command = fmt::format("git -C '{}' ls-files 2>/dev/null", kRoot.string());
  std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  REQUIRE(pipe);
  std::vector<std::string> tracked;
  for (char line[4096]; std::fgets(line, sizeof line, pipe.get());)
    tracked.emplace_back(line, std::strcspn(line, "\n"));
  return tracked;
}

// Characters of a line of UTF-8.
size_t columns(const std::string& line) {
  return std::count_if(line.begin(), line.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

// What stands between backticks in the first cells of tables headed `file` or `script`.
std::set<std::string> names_in_tables(const std::string& readme) {
  static const std::regex quoted("`([^`]+)`");
  std::set<std::string> names;
  bool inside = false;
  for (const std::string& line : lines_of(readme)) {
    if (!line.starts_with("|")) inside = false;
    if (line.starts_with("| file |") || line.starts_with("| script |")) inside = true;
    if (!inside) continue;
    const std::string cell = line.substr(1, line.find('|', 1) - 1);
    for (auto m = std::sregex_iterator(cell.begin(), cell.end(), quoted);
         m != std::sregex_iterator(); ++m)
      names.insert((*m)[1]);
  }
  return names;
}

// Files that match `from` may include, of the quoted and of the library headers, these alone.
// Headers of the standard library have neither a dot nor a folder and are free.
struct Rule {
  const char *from, *quoted, *libraries;
};

const char* const kDevice = "cuda.*|cooperative_groups.*|cub/.*|mma\\.h";
const char* const kText = "fmt/.*|nlohmann/.*|unistd\\.h|fcntl\\.h|sys/.*";

// The first that matches counts.
const Rule kRules[] = {
    // What io shares with the engine stands below both.
    {"engine/(error|parallel|tensor|rng)\\..*",
     "engine/(error|parallel|tensor|rng)\\.h|kernels/random\\.h", "fmt/.*"},
    {"engine/affinity\\..*", "engine/affinity\\.h", "sched\\.h"},
    {"engine/open_module\\..*", "engine/open_module\\.h", "fmt/.*|dlfcn\\.h"},
    // What the module shows of itself is free of CUDA.
    {"engine/cuda/(module|bench|trace)\\.h", "engine/[^/]*|engine/cuda/(module|bench|trace)\\.h",
     "fmt/.*"},
    {"engine/cuda/.*", "(engine|kernels)/[^/]*|engine/cuda/.*",
     "fmt/"
     ".*|cuda.*|library_types\\.h|cudnn.*|cublas.*|nccl\\.h|dlfcn\\.h|cupti\\.h|cxxabi\\.h|nvtx3/"
     ".*"},
    {"engine/cpu/.*", "(engine|kernels)/[^/]*|engine/cpu/.*",
     "fmt/.*|oneapi/dnnl/.*|dnnl.*|omp\\.h|unistd\\.h|sys/.*|.*intrin\\.h"},
    {"engine/wire/.*", "engine/(wire/)?[^/]*",
     "fmt/.*|unistd\\.h|fcntl\\.h|poll\\.h|netdb\\.h|netinet/.*|sys/.*"},
    {"engine/mpi/.*", "engine/[^/]*|engine/mpi/.*", "fmt/.*|mpi\\.h"},
    {"engine/mpi_module\\..*", "engine/[^/]*|engine/mpi/module\\.h", "fmt/.*"},
    {"engine/cuda_module\\..*", "engine/[^/]*|engine/cuda/(module|bench|trace)\\.h", "fmt/.*"},
    {"engine/reference/.*", "(engine|kernels)/[^/]*", "fmt/.*"},
    // Pure functions of logits and labels.
    {"engine/measures/.*",
     "engine/measures/[^/]*|engine/(error|parallel|rng)\\.h|kernels/targets\\.h", "fmt/.*"},
    {"engine/watchdog\\..*", "engine/[^/]*|engine/wire/lifeline\\.h", "fmt/.*"},
    {"engine/[^/]*", "(engine|kernels)/[^/]*", "fmt/.*"},
    {"kernels/sweeps/.*", "kernels/(sweeps/)?[^/]*", kDevice},
    {"kernels/depthwise/.*", "kernels/(depthwise/)?[^/]*", kDevice},
    {"kernels/dense/.*", "kernels/((dense|depthwise|gemm)/)?[^/]*", kDevice},
    {"kernels/stem/.*", "kernels/((stem|gemm)/)?[^/]*", kDevice},
    {"kernels/gemm/.*", "kernels/(gemm/)?[^/]*", kDevice},
    {"kernels/.*", "kernels/[^/]*", kDevice},
    {"models/.*", "models/[^/]*|engine/(graph|tensor|error)\\.h", "fmt/.*"},
    {"io/files/download\\..*", "io/(files|download)/[^/]*|engine/(error|open_module)\\.h",
     "fmt/.*"},
    {"io/download/.*", "io/(files|download)/[^/]*|engine/error\\.h",
     "fmt/.*|curl/.*|unistd\\.h|fcntl\\.h|sys/.*"},
    {"io/files/.*", "io/files/[^/]*|engine/(error|tensor)\\.h",
     "fmt/.*|nlohmann/.*|openssl/.*|unistd\\.h|fcntl\\.h|sys/.*"},
    {"io/images/.*", "io/(files|images)/[^/]*|engine/(error|rng)\\.h|kernels/color\\.h",
     "fmt/.*|opencv2/.*|jpeglib\\.h|jerror\\.h|png\\.h|stb/.*|gif_lib\\.h|tiffio\\.h|webp/"
     ".*|ft2build\\.h|freetype/.*|nlohmann/.*|"
     "immintrin\\.h"},
    {"io/weights/.*", "io/(files|weights)/[^/]*|engine/(error|parallel|tensor)\\.h",
     "fmt/.*|zlib\\.h|nlohmann/.*|unistd\\.h"},
    {"io/data/.*",
     "io/(files|images|data)/[^/]*|engine/(error|parallel|rng)\\.h|"
     "kernels/(image|random|targets)\\.h",
     "fmt/.*|opencv2/.*|zlib\\.h|unistd\\.h|fcntl\\.h|sys/.*"},
    // The floors of tools, from below.
    {"tools/cli/yaml\\..*", "tools/cli/yaml\\.h|engine/error\\.h|io/files/(utf8|json)\\.h",
     "fmt/.*|nlohmann/.*|yaml-cpp/.*"},
    {"tools/cli/.*", "tools/cli/.*|engine/error\\.h|io/files/(utf8|json)\\.h", kText},
    {"tools/machine/.*", "tools/(cli|machine)/.*|engine/(wire/)?[^/]*|io/files/json\\.h",
     "fmt/.*|nlohmann/.*|unistd\\.h|signal\\.h|sys/.*|sched\\.h|dlfcn\\.h|curl/"
     "curlver\\.h|jconfig\\.h|oneapi/dnnl/"
     "dnnl_version\\.h|"
     "opencv2/core/version\\.hpp|zlib\\.h|openssl/.*|png\\.h|gif_lib\\.h|tiffvers\\.h|webp/.*|"
     "ft2build\\.h|freetype/.*"},
    {"tools/data/.*", "tools/(cli|data)/.*|io/.*|engine/error\\.h", kText},
    {"tools/score/.*", "tools/(cli|machine|data|score)/.*|io/.*|engine/(measures/)?[^/]*|models/.*",
     kText},
    {"tools/predict/.*",
     "tools/(cli|machine|data|score|predict)/.*|io/.*|engine/(measures/)?[^/]*|models/.*",
     "fmt/.*|nlohmann/.*|glob\\.h"},
    {"tools/bench/.*",
     "tools/(cli|machine|bench)/.*|engine/(measures/)?[^/]*|engine/cuda/(bench|trace)\\.h|kernels/"
     "[^/]*|models/"
     ".*|io/files/json\\.h",
     kText},
    {"tools/train/.*",
     "tools/(cli|machine|data|score|train)/.*|io/.*|engine/(measures/)?[^/]*|models/.*", kText},
    {"tools/scale/.*",
     "tools/(cli|machine|data|score|train|bench|scale)/.*|io/.*|engine/(measures/)?[^/]*|models/.*",
     kText},
    {"tools/engine/.*", "tools/.*|io/.*|engine/(measures/)?[^/]*|models/.*", kText},
};

}  // namespace

TEST_CASE("includes go one way") {
  size_t seen = 0;
  for (const std::string& file : files({"engine", "kernels", "models", "io", "tools"}, kSources)) {
    const Rule* rule = std::find_if(std::begin(kRules), std::end(kRules),
                                    [&](const Rule& r) { return matches(file, r.from); });
    REQUIRE_MESSAGE(rule != std::end(kRules), "no rule for " << file);
    for (const Include& include : includes_of(file)) {
      ++seen;
      if (!include.quoted && include.what.find_first_of("./") == std::string::npos) continue;
      CHECK_MESSAGE(matches(include.what, include.quoted ? rule->quoted : rule->libraries),
                    file << " may not include " << include.what);
    }
  }
  CHECK(seen > 800);
}

TEST_CASE("own headers are included from the root, and no source file is") {
  for (const std::string& file : files(kRooms, kSources))
    for (const Include& include : includes_of(file)) {
      CHECK_MESSAGE(!matches(include.what, ".*\\.(cpp|cu|c)"),
                    file << " includes " << include.what);
      const bool exists = fs::exists(kRoot / include.what);
      CHECK_MESSAGE(include.quoted == exists,
                    file << (include.quoted ? ": no file " : ": use quotes for ") << include.what);
    }
}

TEST_CASE("headers guard themselves") {
  for (const std::string& file : files(kRooms, {".h", ".cuh"})) {
    const auto lines = lines_of(file);
    CHECK_MESSAGE(std::count(lines.begin(), lines.end(), "#pragma once") == 1, file);
    for (const std::string& line : lines)
      CHECK_MESSAGE(line.find("using namespace") == std::string::npos, file << ": " << line);
  }
}

TEST_CASE("files stay small") {
  constexpr size_t kMost = 500;
  const auto sources = files({"engine", "kernels", "models", "io", "tools"},
                             {".h", ".cuh", ".cpp", ".cu", ".py", ".sh", ".cmake", ".txt"});
  for (const std::string& file : sources) {
    const size_t count = lines_of(file).size();
    CHECK_MESSAGE(count <= kMost, file << " has " << count << " lines");
  }
}

// What a newcomer reads first is true: the table `| file | owns |` of a room's README names every
// source of the folder, a pair by its stem, and nothing else. Folders of tests may leave their
// README to the folder above.
TEST_CASE("every room has a README whose table is the folder's") {
  std::map<std::string, std::set<std::string>> rooms;  // folder → names of its sources
  for (const std::string& file : files(kRooms, {".h", ".cuh", ".cpp", ".cu", ".py", ".sh"}))
    rooms[fs::path(file).parent_path().string()].insert(fs::path(file).filename().string());
  CHECK(rooms.size() > 30);
  for (const auto& [room, sources] : rooms) {
    const bool described = fs::exists(kRoot / room / "README.md");
    CHECK_MESSAGE((described || room.starts_with("tests/")), room << " has no README.md");
    if (!described) continue;
    const std::set<std::string> named = names_in_tables(room + "/README.md");
    for (const std::string& source : sources)
      CHECK_MESSAGE((named.contains(source) || named.contains(fs::path(source).stem().string())),
                    room << "/README.md does not name " << source);
    for (const std::string& name : named) {
      const bool is_there = fs::exists(kRoot / room / name) ||
                            std::any_of(sources.begin(), sources.end(), [&](const std::string& s) {
                              return fs::path(s).stem() == name;
                            });
      CHECK_MESSAGE(is_there, room << "/README.md names " << name << ", which is not there");
    }
  }
}

TEST_CASE("lines have at most 100 columns") {
  constexpr size_t kMost = 100;
  for (const std::string& file : tracked_files()) {
    if (file.starts_with("tests/golden/") || file.starts_with("tests/fuzz/seeds/") ||
        file.ends_with(".json"))
      continue;
    const auto lines = lines_of(file);
    for (size_t i = 0; i < lines.size(); ++i)
      CHECK_MESSAGE(columns(lines[i]) <= kMost, file << ":" << i + 1 << " is too long");
  }
}

TEST_CASE("scripts that name their interpreter can be started by their names, and no others") {
  size_t scripts = 0;
  for (const std::string& file : tracked_files()) {
    if (!file.ends_with(".py") && !file.ends_with(".sh") && !file.starts_with(".ci/")) continue;
    const auto lines = lines_of(file);
    const bool named = !lines.empty() && lines[0].starts_with("#!");
    const fs::perms may = fs::status(kRoot / file).permissions();
    CHECK_MESSAGE(((may & fs::perms::owner_exec) != fs::perms::none) == named, file);
    scripts += named;
  }
  if (scripts == 0) note_skipped("not a git checkout");
}

TEST_CASE("nothing is left for later") {
  const std::regex left("TODO|FIXME|XXX|HACK");
  for (const std::string& file : files({"engine", "kernels", "models", "io", "tools"},
                                       {".h", ".cuh", ".cpp", ".cu", ".py", ".sh"}))
    for (const std::string& line : lines_of(file))
      CHECK_MESSAGE(!std::regex_search(line, left), file << ": " << line);
}

TEST_CASE("the top level holds what is fixed") {
  const std::set<std::string> fixed = {"CMakeLists.txt", "CMakePresets.json",
                                       "LICENSE",        "README.md",
                                       "engine",         "io",
                                       "kernels",        "models",
                                       "tests",          "tools",
                                       "weights"};
  std::set<std::string> top;
  for (const std::string& file : tracked_files()) top.insert(file.substr(0, file.find('/')));
  if (top.empty()) return note_skipped("not a git checkout");
  for (const std::string& entry : top)
    CHECK_MESSAGE((fixed.contains(entry) || entry.starts_with(".")), entry);
}

#include "tools/predict/inputs.h"

#include <fmt/ranges.h>
#include <glob.h>

#include <algorithm>
#include <istream>
#include <iterator>
#include <system_error>

#include "engine/error.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

void add_path(Inputs& inputs, const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    inputs.data.samples.push_back({path});
    return;
  }
  FileCount count{.where = path};
  for (std::string& image : list_images(path, &count.ignored)) {
    inputs.data.samples.push_back({std::move(image)});
    ++count.images;
  }
  if (!count.ignored.empty()) inputs.files.push_back(std::move(count));
}

// A file of that very name is no pattern.
bool is_pattern(const std::string& argument) {
  std::error_code error;
  return argument.find_first_of("*?[") != std::string::npos &&
         !fs::exists(fs::symlink_status(argument, error));
}

std::vector<std::string> matches(const std::string& pattern) {
  glob_t found{};
  const int status = glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::string> paths;
  if (status == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  require(status == 0 || status == GLOB_NOMATCH, Failure::data, "{}: cannot be matched", pattern);
  return paths;
}

}  // namespace

std::vector<std::string> split_paths(std::string_view list) {
  const bool lines = list.find('\0') == std::string_view::npos;
  std::vector<std::string> paths;
  while (!list.empty()) {
    const size_t end = std::min(list.find(lines ? '\n' : '\0'), list.size());
    std::string_view path = list.substr(0, end);
    if (lines && path.ends_with('\r')) path.remove_suffix(1);
    if (!path.empty()) paths.emplace_back(path);
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return paths;
}

Inputs find_inputs(const std::vector<std::string>& arguments, std::istream& list) {
  require(std::ranges::count(arguments, "-") <= 1, Failure::usage,
          "-: standard input is read once");
  Inputs inputs;
  for (const std::string& argument : arguments) {
    if (argument == "-") {
      const std::string text{std::istreambuf_iterator<char>(list), {}};
      for (const std::string& path : split_paths(text)) add_path(inputs, path);
    } else if (is_pattern(argument)) {
      const std::vector<std::string> paths = matches(argument);
      if (paths.empty()) inputs.unmatched.push_back(argument);
      for (const std::string& path : paths) add_path(inputs, path);
    } else {
      add_path(inputs, argument);
    }
  }
  require(!inputs.data.samples.empty(), Failure::data, "{}: no images in it",
          fmt::join(arguments, " "));
  return inputs;
}

}  // namespace engine

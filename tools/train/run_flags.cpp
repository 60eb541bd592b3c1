#include "tools/train/run_flags.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/json.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

std::string numbered(std::string_view stem, int number, std::string_view extension) {
  return number == 1 ? fmt::format("{}{}", stem, extension)
                     : fmt::format("{}-{}{}", stem, number, extension);
}

// How many of the files are there, counted from the first.
int starts(const fs::path& run, std::string_view stem, std::string_view extension) {
  int count = 0;
  std::error_code error;
  while (fs::exists(run / numbered(stem, count + 1, extension), error)) ++count;
  return count;
}

// Whether a flag takes other words than a file: "FILE|NAME", "none|auto|FILE".
bool takes_words(const Flag& flag) {
  return flag.placeholder.find('|') != std::string::npos;
}

// Of such a flag, whether the value is a file, not one of the words.
bool means_file(const Flag& flag, const std::string& value) {
  const bool word =
      fmt::format("|{}|", flag.placeholder).find('|' + value + '|') != std::string::npos;
  std::error_code error;
  return !word && fs::exists(value, error);
}

}  // namespace

std::string first_free(const fs::path& run, std::string_view stem, std::string_view extension) {
  return numbered(stem, starts(run, stem, extension) + 1, extension);
}

fs::path run_of(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error) ? path : fs::absolute(path).parent_path().parent_path();
}

std::optional<Config> latest_flags(const fs::path& run) {
  const int count = starts(run, "args", ".json");
  if (count == 0) return std::nullopt;
  const fs::path file = run / numbered("args", count, ".json");
  const std::vector<std::byte> bytes = read_file(file, Failure::usage);
  const std::string_view text = as_text(bytes);
  auto json = json_or_null<nlohmann::ordered_json>(text);
  require(json.is_object(), Failure::usage, "{}: no JSON object", file.string());
  for (const char* of_one_start : {"out", "resume", "lr_find", "lr_find_steps"})
    json.erase(of_one_start);
  return Config{print_json(json), file.string()};
}

void make_paths_absolute(const Flags& flags) {
  for (const Flag& flag : flags.list()) {
    const auto resolve = [&](auto& value) {
      const std::string text = fs::path(value).string();
      if (!text.empty() && (!takes_words(flag) || means_file(flag, text)))
        value = fs::absolute(text).lexically_normal().string();
    };
    std::visit(
        [&]<class T>(const T& value) {
          if constexpr (std::is_same_v<T, fs::path*>) resolve(*value);
          if constexpr (std::is_same_v<T, std::optional<fs::path>*>)
            if (*value) resolve(**value);
          if constexpr (std::is_same_v<T, std::string*>)
            if (takes_words(flag)) resolve(*value);
        },
        flag.field);
  }
}

}  // namespace engine

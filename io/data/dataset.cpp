#include "io/data/dataset.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <string_view>
#include <system_error>

#include "engine/error.h"
#include "io/data/idx.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 15> kExtensions = {
    ".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm",  ".pbm",  ".pnm", ".bmp", ".tga",  ".gif"};
constexpr std::array<const char*, 3> kValidationNames = {"val", "valid", "validation"};

constexpr const char* kLayout =
    "expected DIR/train/CLASS/… and DIR/val/CLASS/… (val may be called valid or validation; "
    "DIR/test is "
    "optional)";

void require_folder(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::none)  // it cannot be looked at
    fail(Failure::data, "{}: {}", path.string(), error.message());
  require(fs::exists(status), Failure::data, "{}: no such folder", path.string());
  require(fs::is_directory(status), Failure::data, "{}: not a folder", path.string());
}

bool is_folder(const fs::path& path) {
  std::error_code error;  // a broken link is not a folder
  return fs::is_directory(path, error);
}

struct Entries {
  std::vector<std::string> folders, files;  // names, sorted as bytes
};

// What a folder holds and does not hide. A broken link counts as a file, so that reading it names
// it.
Entries entries_of(const fs::path& folder) {
  Entries entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with('.')) continue;
    std::error_code broken;
    (it->is_directory(broken) ? entries.folders : entries.files).push_back(name);
  }
  require(!error, Failure::data, "{}: {}", folder.string(), error.message());
  std::ranges::sort(entries.folders);
  std::ranges::sort(entries.files);
  return entries;
}

// `above` has the folders from the root of the walk down to this one, with links resolved.
void walk(const fs::path& folder, std::vector<fs::path>& above,
          std::map<std::string, std::vector<std::string>>& images) {
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  require(!error, Failure::data, "{}: {}", folder.string(), error.message());
  require(std::ranges::find(above, real) == above.end(), Failure::data,
          "{}: a link to a folder that contains it", folder.string());
  above.push_back(real);
  const Entries entries = entries_of(folder);
  for (const std::string& name : entries.files)
    if (has_image_extension(name)) images[folder.string()].push_back((folder / name).string());
  for (const std::string& name : entries.folders) walk(folder / name, above, images);
  above.pop_back();
}

// Orders names as timm's natural_key() does: digits by their value, the rest in lower case.
bool naturally_less(std::string_view a, std::string_view b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto lower = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (lower(a[i]) != lower(b[j])) return lower(a[i]) < lower(b[j]);
      ++i, ++j;
      continue;
    }
    const auto number = [&](std::string_view text, size_t& at) {
      while (at + 1 < text.size() && text[at] == '0' && digit(text[at + 1])) ++at;
      const size_t begin = at;
      while (at < text.size() && digit(text[at])) ++at;
      return text.substr(begin, at - begin);
    };
    const std::string_view x = number(a, i), y = number(b, j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  if (i < a.size() || j < b.size()) return j < b.size();
  return a < b;  // names such as "a1" and "A01", which are equal so far
}

}  // namespace

std::vector<std::string> class_folders(const fs::path& folder) {
  require_folder(folder);
  std::vector<std::string> names = entries_of(folder).folders;
  require(!names.empty(), Failure::data, "{}: no class folders in it", folder.string());
  return names;
}

std::optional<fs::path> validation_folder(const fs::path& root) {
  std::optional<fs::path> found;
  for (const char* name : kValidationNames) {
    if (!is_folder(root / name)) continue;
    require(!found, Failure::data, "{}: both {} and {}, which is the validation set?",
            root.string(), found->filename().string(), name);
    found = root / name;
  }
  return found;
}

void sort_classes(std::vector<std::string>& names, ClassOrder order) {
  if (order == ClassOrder::bytes)
    std::ranges::sort(names);
  else
    std::ranges::sort(names, naturally_less);
}

bool has_image_extension(const fs::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::ranges::find(kExtensions, extension) != kExtensions.end();
}

std::vector<std::string> list_images(const fs::path& folder) {
  require_folder(folder);
  // torchvision sorts the folders by their whole path, so that "a-b/" comes before "a/b/".
  std::map<std::string, std::vector<std::string>> images;
  std::vector<fs::path> above;
  walk(folder, above, images);
  std::vector<std::string> all;
  for (const auto& [_, files] : images) all.insert(all.end(), files.begin(), files.end());
  return all;
}

Dataset read_image_folder(const fs::path& folder, const std::vector<std::string>& classes) {
  Dataset data{.classes = classes};
  for (const std::string& name : class_folders(folder)) {
    const auto known = std::ranges::find(classes, name);
    require(known != classes.end(), Failure::data,
            "{}: class \"{}\" is not one of the {} classes trained on", folder.string(), name,
            classes.size());
    for (std::string& path : list_images(folder / name))
      data.samples.push_back({std::move(path), static_cast<int>(known - classes.begin())});
  }
  require(!data.samples.empty(), Failure::data, "{}: no images in it ({})", folder.string(),
          fmt::join(kExtensions, " "));
  return data;
}

Dataset read_image_folder(const fs::path& folder, ClassOrder order) {
  std::vector<std::string> classes = class_folders(folder);
  sort_classes(classes, order);
  Dataset data = read_image_folder(folder, classes);
  std::vector<size_t> count(data.classes.size());
  for (const Sample& sample : data.samples) ++count[sample.label];
  for (size_t i = 0; i < count.size(); ++i)
    require(count[i] > 0, Failure::data, "{}: no images in this class folder ({})",
            (folder / data.classes[i]).string(), fmt::join(kExtensions, " "));
  return data;
}

TrainingData read_training_data(const fs::path& root, ClassOrder order) {
  require_folder(root);
  if (has_idx_files(root)) return read_idx_folder(root);
  require(is_folder(root / "train"), Failure::data, "{}: no train folder in it; {}", root.string(),
          kLayout);
  const std::optional<fs::path> validation = validation_folder(root);
  require(validation.has_value(), Failure::data, "{}: no validation folder in it; {}",
          root.string(), kLayout);
  TrainingData data{.train = read_image_folder(root / "train", order)};
  data.validation = read_image_folder(*validation, data.train.classes);
  if (is_folder(root / "test")) data.test = read_image_folder(root / "test", data.train.classes);
  return data;
}

}  // namespace engine

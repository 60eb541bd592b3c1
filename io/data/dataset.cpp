#include "io/data/dataset.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <string_view>
#include <system_error>

#include "engine/error.h"
#include "io/data/idx.h"
#include "io/data/likely_folder.h"
#include "io/data/split.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 15> kExtensions = {
    ".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm",  ".pbm",  ".pnm", ".bmp", ".tga",  ".gif"};

constexpr const char* kLayout =
    "expected DIR/train/CLASS/… and DIR/val/CLASS/… (val may be called valid or validation; "
    "DIR/test is optional); --split A/B/C chooses the parts of DIR/CLASS/…";

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

void require_folder(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::none)  // it cannot be looked at
    fail(Failure::data, "{}: {}", path.string(), error.message());
  require(fs::exists(status), Failure::data, "{}: no such folder", path.string());
  require(fs::is_directory(status), Failure::data, "{}: not a folder", path.string());
}

// The files below a folder; links to folders are not followed, and what cannot be read is left out.
size_t files_below(const fs::path& folder) {
  std::error_code error;
  size_t count = 0;
  const auto skip = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator it(folder, skip, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code broken;
    count += !it->is_directory(broken);
  }
  return count;
}

struct Entries {
  std::vector<std::string> folders, files;  // names, sorted as bytes
  size_t hidden = 0;                        // hidden files, and those below hidden folders
};

// What a folder holds. A broken link counts as a file, so that reading it names it.
Entries entries_of(const fs::path& folder) {
  Entries entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code broken;
    const bool is_folder = it->is_directory(broken);
    if (name.starts_with('.'))
      entries.hidden += is_folder ? files_below(it->path()) : 1;
    else
      (is_folder ? entries.folders : entries.files).push_back(name);
  }
  require(!error, Failure::data, "{}: {}", folder.string(), error.message());
  std::ranges::sort(entries.folders);
  std::ranges::sort(entries.files);
  return entries;
}

void add(Ignored& ignored, const std::string& kind, size_t count) {
  if (count > 0) ignored[kind] += count;
}

std::string extension_of(const fs::path& file) {
  const std::string extension = lower(file.extension().string());
  return extension.empty() ? "without extension" : extension;
}

// Files that lie where no images are looked for.
Ignored loose(const Entries& entries, std::string_view where) {
  Ignored ignored;
  add(ignored, "hidden", entries.hidden);
  for (const std::string& name : entries.files)
    add(ignored, extension_of(name) + (has_image_extension(name) ? std::string(where) : ""), 1);
  return ignored;
}

// `above` has the folders from the root of the walk down to this one, with links resolved.
void walk(const fs::path& folder, std::vector<fs::path>& above,
          std::map<std::string, std::vector<std::string>>& images, Ignored& ignored) {
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  require(!error, Failure::data, "{}: {}", folder.string(), error.message());
  require(std::ranges::find(above, real) == above.end(), Failure::data,
          "{}: a link to a folder that contains it", folder.string());
  above.push_back(real);
  const Entries entries = entries_of(folder);
  add(ignored, "hidden", entries.hidden);
  for (const std::string& name : entries.files)
    if (has_image_extension(name))
      images[folder.string()].push_back((folder / name).string());
    else
      add(ignored, extension_of(name), 1);
  for (const std::string& name : entries.folders) walk(folder / name, above, images, ignored);
  above.pop_back();
}

bool is_run(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / "args.json", error) || fs::exists(folder / "run.lock", error);
}

// Whether the folder is that of a training run, or holds nothing but such: runs may be kept among
// the images that they were trained on.
bool holds_runs(const fs::path& folder) {
  if (is_run(folder)) return true;
  std::error_code error;
  bool found = false;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!is_run(at->path())) return false;
    found = true;
  }
  return found;
}

// Orders names as timm's natural_key() does: digits by their value, the rest in lower case.
bool naturally_less(std::string_view a, std::string_view b) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto small = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (small(a[i]) != small(b[j])) return small(a[i]) < small(b[j]);
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
  std::erase_if(names, [&](const std::string& name) { return holds_runs(folder / name); });
  require(!names.empty(), Failure::data, "{}: no class folders in it", folder.string());
  return names;
}

bool has_class_folders(const fs::path& folder) {
  return !std::ranges::all_of(entries_of(folder).folders,
                              [&](const std::string& name) { return holds_runs(folder / name); });
}

size_t FileCount::files() const {
  size_t all = images;
  for (const auto& [_, count] : ignored) all += count;
  return all;
}

std::string describe(const FileCount& count) {
  std::vector<std::string> kinds;
  for (const auto& [kind, files] : count.ignored)
    kinds.push_back(fmt::format("{} {}", files, kind));
  return fmt::format("{}: of {} files {} are images; not used: {}", count.where, count.files(),
                     count.images,
                     kinds.empty() ? "none" : fmt::format("{}", fmt::join(kinds, ", ")));
}

PartFolders part_folders(const fs::path& root) {
  require_folder(root);
  PartFolders parts{.others = {.where = root.string()}};
  const Entries entries = entries_of(root);
  parts.others.ignored = loose(entries, " outside the parts");
  const auto take = [&](std::optional<fs::path>& part, const std::string& name, const char* what) {
    require(!part, Failure::data, "{}: both {} and {}, which is the {} set?", root.string(),
            part->filename().string(), name, what);
    part = root / name;
  };
  for (const std::string& name : entries.folders) {
    const std::optional<Part> part = parse_part(name);
    if (part == Part::train)
      take(parts.train, name, "training");
    else if (part == Part::validation)
      take(parts.validation, name, "validation");
    else if (part == Part::test)
      take(parts.test, name, "test");
    else
      add(parts.others.ignored, fmt::format("in {}/", name), files_below(root / name));
  }
  return parts;
}

std::string_view text_of(Presence presence) {
  constexpr std::string_view kTexts[] = {"0", "1", ""};
  return kTexts[static_cast<size_t>(presence)];
}

std::string label_text(const Dataset& data, const Sample& sample) {
  if (data.task == Task::classes) return data.classes[static_cast<size_t>(sample.label)];
  std::string text;
  for (size_t c = 0; c < sample.labels.size(); ++c) {
    if (sample.labels[c] == Presence::absent) continue;
    if (!text.empty()) text += '|';
    text += data.classes[c];
    if (sample.labels[c] == Presence::missing) text += '?';
  }
  return text;
}

std::vector<size_t> images_by_class(const Dataset& data) {
  std::vector<size_t> counts(data.classes.size());
  for (const Sample& sample : data.samples)
    for_each_class(data, sample, [&](size_t c) { ++counts[c]; });
  return counts;
}

void sort_classes(std::vector<std::string>& names, ClassOrder order) {
  if (order == ClassOrder::bytes)
    std::ranges::sort(names);
  else
    std::ranges::sort(names, naturally_less);
}

bool has_image_extension(const fs::path& file) {
  return std::ranges::find(kExtensions, lower(file.extension().string())) != kExtensions.end();
}

std::vector<std::string> list_images(const fs::path& folder, Ignored* ignored) {
  require_folder(folder);
  // torchvision sorts the folders by their whole path, so that "a-b/" comes before "a/b/".
  std::map<std::string, std::vector<std::string>> images;
  std::vector<fs::path> above;
  Ignored others;
  walk(folder, above, images, ignored ? *ignored : others);
  std::vector<std::string> all;
  for (const auto& [_, files] : images) all.insert(all.end(), files.begin(), files.end());
  return all;
}

Dataset read_image_folder(const fs::path& folder, const std::vector<std::string>& classes) {
  Dataset data{.classes = classes};
  const std::vector<std::string> names = class_folders(folder);
  data.ignored = loose(entries_of(folder), " outside the class folders");
  for (const std::string& name : names) {
    const auto known = std::ranges::find(classes, name);
    require(known != classes.end(), Failure::data,
            "{}: class \"{}\" is not one of the {} classes trained on", folder.string(), name,
            classes.size());
    for (std::string& path : list_images(folder / name, &data.ignored))
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
  const std::vector<size_t> count = images_by_class(data);
  for (size_t i = 0; i < count.size(); ++i)
    require(count[i] > 0, Failure::data, "{}: no images in this class folder ({})",
            (folder / data.classes[i]).string(), fmt::join(kExtensions, " "));
  return data;
}

std::optional<Dataset> read_test_folder(const fs::path& folder,
                                        const std::vector<std::string>& classes, DataNotes& notes) {
  if (!has_class_folders(folder)) {
    notes.files.push_back(
        {.where = folder.string(), .ignored = loose(entries_of(folder), " without a label")});
    notes.lines.push_back(
        fmt::format("{}: passed over, it has no class folders; engine predict tells the classes of "
                    "images without labels",
                    folder.string()));
    return std::nullopt;
  }
  Dataset test = read_image_folder(folder, classes);
  notes.files.push_back({folder.string(), test.samples.size(), test.ignored});
  return test;
}

void require_readable_classes(const Dataset& data, std::span<const uint32_t> unreadable) {
  const std::vector<size_t> all = images_by_class(data);
  std::vector<size_t> bad(all.size());
  for (const uint32_t i : unreadable)
    for_each_class(data, data.samples[i], [&](size_t c) { ++bad[c]; });
  for (const uint32_t i : unreadable)
    for_each_class(data, data.samples[i], [&](size_t c) {
      require(bad[c] < all[c], Failure::data,
              "class \"{}\": none of its {} images can be read, the first is {}", data.classes[c],
              all[c], data.samples[i].path);
    });
}

TrainingData read_training_data(const fs::path& root, ClassOrder order) {
  require_folder(root);
  if (has_idx_files(root)) return read_idx_folder(root);
  const PartFolders parts = part_folders(root);
  const fs::path meant = parts.train ? fs::path() : likely_folder(root);
  require(meant.empty(), Failure::data, "{}: no train folder in it; {} has one: is that meant?",
          root.string(), meant.string());
  require(parts.train.has_value(), Failure::data, "{}: no train folder in it; {}", root.string(),
          kLayout);
  require(
      parts.validation.has_value(), Failure::data,
      "{}: no validation folder in it; {}, or --split 0.8/0.2 takes a fifth of the images in {}",
      root.string(), kLayout, parts.train->filename().string());
  TrainingData data{.train = read_image_folder(*parts.train, order)};
  data.validation = read_image_folder(*parts.validation, data.train.classes);
  data.notes.files = {
      parts.others,
      {parts.train->string(), data.train.samples.size(), data.train.ignored},
      {parts.validation->string(), data.validation.samples.size(), data.validation.ignored}};
  if (parts.test) data.test = read_test_folder(*parts.test, data.train.classes, data.notes);
  return data;
}

}  // namespace engine

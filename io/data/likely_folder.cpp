#include "io/data/likely_folder.h"

#include <system_error>

#include "engine/error.h"
#include "io/data/dataset.h"
#include "io/data/split.h"

namespace engine {

namespace fs = std::filesystem;

namespace {

bool has_train_folder(const fs::path& folder) {
  try {
    return part_folders(folder).train.has_value();
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

fs::path likely_folder(const fs::path& root) {
  const fs::path whole = fs::absolute(root).lexically_normal();
  const fs::path path = whole.filename().empty() ? whole.parent_path() : whole;
  if (parse_part(path.filename().string()) && has_train_folder(path.parent_path()))
    return root.filename().empty() ? root.parent_path().parent_path() : root.parent_path();
  fs::path found;
  std::error_code error;
  for (fs::directory_iterator at(root, error), end; !error && at != end; at.increment(error)) {
    std::error_code broken;
    if (!at->is_directory(broken) || !has_train_folder(at->path())) continue;
    if (!found.empty()) return {};
    found = at->path();
  }
  return found;
}

}  // namespace engine

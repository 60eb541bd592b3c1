#include "io/weights/fetch.h"

#include <unistd.h>

#include <optional>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/download.h"
#include "io/files/file_lock.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

fs::path beside(const fs::path& file, const char* ending) {
  return file.string() + ending;
}

void tell(const FetchOptions& options, const std::string& line) {
  if (options.say) options.say(line);
}

// Deletes the file if its checksum is not the published one; returns whether it is there and right.
bool keep_if_right(const fs::path& file, const ManifestEntry& entry, const FetchOptions& options) {
  std::error_code error;
  if (!fs::exists(file, error)) return false;
  const std::string digest = sha256(read_file(file, Failure::weights));
  if (digest.starts_with(entry.sha256)) return true;
  fs::remove(file, error);
  tell(options, fmt::format("{}: SHA-256 {}, published is {}: {}", file.string(), digest,
                            entry.sha256, error ? "it cannot be deleted" : "deleted"));
  return false;
}

void make_cache(const fs::path& folder, const ManifestEntry& entry) {
  std::error_code error;
  fs::create_directories(folder, error);
  const bool writable = !error && access(folder.c_str(), W_OK) == 0;
  require(writable, Failure::data,
          "{}: cannot keep files there: {}; XDG_CACHE_HOME or ENGINE_CACHE_DIR names another "
          "place, or put {} at {}",
          folder.string(), error ? error.message() : "it is read-only", entry.source,
          place_of(entry, folder).string());
}

// Waits while another process fetches the file.
FileLock take_lock(const fs::path& file, const FetchOptions& options) {
  const auto waiting = [&](const std::string& holder) {
    tell(options, fmt::format("{}: {} is fetching it; waiting", file.string(), holder));
  };
  return wait_for_lock(beside(file, ".lock"), {.waiting = waiting, .stop = options.stop});
}

void download_part(const ManifestEntry& entry, const fs::path& file, const FetchOptions& options) {
  try {
    download(entry.source, beside(file, ".part"),
             {.progress = options.progress, .stop = options.stop});
  } catch (const Error& error) {
    if (error.kind != Failure::network) throw;
    fail(Failure::network,
         "{}; the same command goes on where this ended. Where there is no network, get {} "
         "elsewhere and put it at {}",
         error.what(), entry.source, file.string());
  }
}

}  // namespace

fs::path place_of(const ManifestEntry& entry, const fs::path& folder) {
  return folder / entry.names.front();
}

bool is_as_published(const fs::path& file, const ManifestEntry& entry) {
  std::error_code error;
  return fs::is_regular_file(file, error) &&
         sha256(read_file(file, Failure::weights)).starts_with(entry.sha256);
}

fs::path fetch_weights(const ManifestEntry& entry, const fs::path& folder,
                       const FetchOptions& options) {
  const fs::path file = place_of(entry, folder), part = beside(file, ".part");
  require(!entry.sha256.empty(), Failure::weights, "{}: no checksum is published: get {} yourself",
          entry.names.front(), entry.source);
  if (is_as_published(file, entry)) return file;
  make_cache(folder, entry);
  const FileLock lock = take_lock(file, options);
  if (keep_if_right(file, entry, options)) return file;
  const bool resumed = fs::exists(part);
  download_part(entry, file, options);
  bool right = keep_if_right(part, entry, options);
  if (!right && resumed) {  // the beginning may have been of another file
    download_part(entry, file, options);
    right = keep_if_right(part, entry, options);
  }
  require(right, Failure::weights, "{}: not the file that was published: nothing is kept of it",
          entry.source);
  fs::rename(part, file);
  return file;
}

}  // namespace engine

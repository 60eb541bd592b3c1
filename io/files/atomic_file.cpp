#include "io/files/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "engine/error.h"
#include "io/files/descriptor.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_with_errno(const fs::path& path, const char* action) {
  fail(Failure::data, "{}: cannot {}: {}", path.string(), action, std::strerror(errno));
}

// Removes its file when it is destroyed, unless the file is to be kept.
class Temporary {
 public:
  explicit Temporary(fs::path path) : path_(std::move(path)) {}
  ~Temporary() {
    if (!kept_) unlink(path_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  const fs::path& path() const { return path_; }
  void keep() { kept_ = true; }

 private:
  fs::path path_;
  bool kept_ = false;
};

void write_all(int file, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      fail(Failure::data, "{}: cannot write {} more bytes: {}", path.string(), bytes.size(),
           std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

// The rename is on disk only when the folder is.
void sync_folder(const fs::path& path) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const Descriptor opened(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some network file systems cannot sync a folder and say so with EINVAL.
  if (opened.value() < 0 || (fsync(opened.value()) != 0 && errno != EINVAL))
    fail_with_errno(folder, "sync the folder");
}

}  // namespace

void write_file_atomically(const fs::path& path,
                           std::span<const std::span<const std::byte>> parts) {
  static std::atomic<unsigned> count = 0;  // two threads may write the same path
  Temporary temporary(fmt::format("{}.{}-{}.tmp", path.string(), getpid(), count++));
  Descriptor file(
      open(temporary.path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (file.value() < 0) fail_with_errno(path, "create a temporary beside it");
  for (const std::span<const std::byte> part : parts) write_all(file.value(), part, path);
  if (fsync(file.value()) != 0) fail_with_errno(path, "sync");
  if (close(file.release()) != 0) fail_with_errno(path, "close");
  if (rename(temporary.path().c_str(), path.c_str()) != 0) fail_with_errno(path, "replace");
  temporary.keep();
  sync_folder(path);
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(text))};
  write_file_atomically(path, parts);
}

}  // namespace engine

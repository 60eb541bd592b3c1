#include "io/files/file_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace engine {
namespace {

Descriptor open_or_make(const std::filesystem::path& path, Failure kind) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
  require(file.value() >= 0, kind, "{}: {}", path.string(), std::strerror(errno));
  return file;
}

FileLock::Outcome try_lock(int file, const std::filesystem::path& path) {
  while (flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return FileLock::Outcome::held_by_another;
    const bool lacks = errno == ENOSYS || errno == EOPNOTSUPP || errno == ENOLCK;
    require(lacks, Failure::data, "{}: cannot lock: {}", path.string(), std::strerror(errno));
    return FileLock::Outcome::not_supported;
  }
  return FileLock::Outcome::taken;
}

}  // namespace

FileLock::FileLock(const std::filesystem::path& path, const std::string& text, Failure kind)
    : path_(path), file_(open_or_make(path, kind)) {
  outcome_ = try_lock(file_.value(), path);
  // A holder removes the file before it lets go of the lock: then the lock is on no file.
  while (outcome_ == Outcome::taken && !is_at_path()) {
    file_ = open_or_make(path, kind);
    outcome_ = try_lock(file_.value(), path);
  }
  if (outcome_ != Outcome::taken) return;
  bool written = ftruncate(file_.value(), 0) == 0;
  for (size_t at = 0; written && at < text.size();) {
    const ssize_t some = pwrite(file_.value(), text.data() + at, text.size() - at, off_t(at));
    written = some > 0 || (some < 0 && errno == EINTR);
    at += some > 0 ? static_cast<size_t>(some) : 0;
  }
  require(written, Failure::data, "{}: cannot write: {}", path.string(), std::strerror(errno));
}

FileLock::~FileLock() {
  if (file_.value() >= 0 && outcome_ == Outcome::taken && is_at_path()) unlink(path_.c_str());
}

FileLock::FileLock(FileLock&& other) noexcept
    : path_(std::move(other.path_)), file_(std::move(other.file_)), outcome_(other.outcome_) {}

std::string FileLock::text() const {
  std::array<char, 512> text;
  const ssize_t size = pread(file_.value(), text.data(), text.size(), 0);
  return {text.data(), static_cast<size_t>(size > 0 ? size : 0)};
}

bool FileLock::is_at_path() const {
  struct stat opened {
  }, named{};
  return fstat(file_.value(), &opened) == 0 && stat(path_.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

FileLock wait_for_lock(const std::filesystem::path& path, const LockWait& wait) {
  for (bool told = false;; told = true) {
    FileLock lock(path, fmt::format("process {}", getpid()));
    if (lock.outcome() != FileLock::Outcome::held_by_another) return lock;
    if (!told && wait.waiting) wait.waiting(lock.text());
    require(!wait.stop || !wait.stop(), Failure::preempted, "stopped while waiting for {}",
            path.string());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace engine

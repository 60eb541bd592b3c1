// One folder, one run: the lock that a run holds on its folder, and what of it a failed start takes
// back.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "io/files/file_lock.h"

namespace engine {

class RunLock {
 public:
  // Locks the folder `out`, which is made if it is not there; if `out` is empty, the folder
  // runs/<model>-<date>-<time>. Error(usage) where another run holds the lock, which is named, and
  // where the folder has something in it although no run is to be resumed.
  static RunLock take(const std::filesystem::path& out, std::string_view model, bool resume);

  // Unless keep() was called, what came into a folder that was empty is removed, and so are the
  // folders that take() made.
  ~RunLock();
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // There is something to lose from now on.
  void keep() { kept_ = true; }

 private:
  RunLock(std::filesystem::path path, std::vector<std::filesystem::path> made, FileLock lock);

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // folders, the innermost first
  bool kept_ = false;
  std::optional<FileLock> lock_;
};

}  // namespace engine

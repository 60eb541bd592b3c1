// A lock on a file that ends with the process that holds it, however that ends.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "engine/error.h"
#include "io/files/descriptor.h"

namespace engine {

// An flock() on a file that is made for it and holds a text about its holder. The file is removed
// when the lock is given up; where the process was killed it stays, and hinders nobody.
class FileLock {
 public:
  enum class Outcome { taken, held_by_another, not_supported };

  // Makes the file and writes the text if nobody holds the lock. Some network file systems cannot
  // lock: then the file is there, and protects nothing. Error(kind) where it cannot be made.
  FileLock(const std::filesystem::path& path, const std::string& text,
           Failure kind = Failure::data);
  ~FileLock();
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&&) = delete;

  Outcome outcome() const { return outcome_; }
  // What the present holder has written; empty if it has not yet.
  std::string text() const;

 private:
  bool is_at_path() const;

  std::filesystem::path path_;
  Descriptor file_;
  Outcome outcome_ = Outcome::held_by_another;
};

struct LockWait {
  std::function<void(const std::string& holder)> waiting;  // called once, if there is a holder
  std::function<bool()> stop;                              // asked often; says whether to give up
};
// The lock, once nobody else holds it. Error(preempted) where `stop` said so.
FileLock wait_for_lock(const std::filesystem::path& path, const LockWait& wait);

}  // namespace engine

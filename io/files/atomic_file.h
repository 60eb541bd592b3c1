// Where outputs go: files that are there completely or not at all, whatever happens while they are
// written; folders.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace engine {

// Writes the parts one after the other into a temporary file in the same folder, syncs it, renames
// it to `path` and syncs the folder. On failure the temporary is removed and an Error(data) with
// the system's reason is thrown; what was at `path` before is untouched. A link stays, and the file
// that it names is replaced. What is no regular file (a device, a pipe) is written to as it is. A
// folder is an Error(usage).
void write_file_atomically(const std::filesystem::path& path,
                           std::span<const std::span<const std::byte>> parts);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// The same for a file that is written piece by piece: it is there once commit() returns, and what
// is not committed is removed. Every function throws as write_file_atomically() does.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(AtomicFile&&) noexcept;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // Writes over bytes that are there, from `offset` on. Error(usage) where `path` is a device or a
  // pipe, in which nothing stays.
  void overwrite(size_t offset, std::span<const std::byte> bytes);
  bool can_overwrite() const;
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Makes the folder of outputs, and those above it. Error(usage) with what is in the way.
void make_folder(const std::filesystem::path& path);
// What is in the way of a folder that could not be made: a link of the path that leads nowhere, for
// which the system says that the file exists, or else the system's reason.
std::string why_no_folder(const std::filesystem::path& path, const std::error_code& error);

// One of many files in a folder that is made anew: it must not be there, and is not synced.
// Error(data) with the system's reason.
void write_new_file(const std::filesystem::path& path, std::span<const std::byte> bytes);

}  // namespace engine

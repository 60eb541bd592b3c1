#include "io/files/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>

#include "engine/error.h"
#include "io/files/descriptor.h"

namespace engine {

namespace fs = std::filesystem;

// What AtomicFile::State holds.
namespace atomic_file {

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

// Where the bytes of a file belong.
struct Place {
  fs::path path;
  bool replaced = true;  // else they are written to what is there
};

}  // namespace atomic_file

namespace {

using atomic_file::Place;

[[noreturn]] void fail_with_errno(const fs::path& path, const char* action) {
  fail(Failure::data, "{}: cannot {}: {}", path.string(), action, std::strerror(errno));
}

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

// What links of /proc name is open, and perhaps no file of that name any more.
bool names_an_open_file(const fs::path& link) {
  return link.lexically_normal().string().starts_with("/proc/");
}

// Follows links, so that they stay and what they name is replaced.
Place find_place(const fs::path& path) {
  constexpr int kMostLinks = 40;  // as the system allows
  Place place{path};
  for (int links = 0;; ++links) {
    std::error_code error;
    const fs::file_type type = fs::symlink_status(place.path, error).type();
    // What cannot be looked at cannot be written either, which says why.
    if (type == fs::file_type::none || type == fs::file_type::not_found) return place;
    if (type == fs::file_type::symlink && names_an_open_file(place.path)) return {path, false};
    if (type != fs::file_type::symlink) {
      require(type != fs::file_type::directory, Failure::usage,
              "{}: is a folder; the name of a file is wanted", path.string());
      return {place.path, type == fs::file_type::regular};
    }
    require(links < kMostLinks, Failure::usage, "{}: a link that leads to itself", path.string());
    const fs::path target = fs::read_symlink(place.path, error);
    if (error) fail(Failure::data, "{}: {}", place.path.string(), error.message());
    place.path = place.path.parent_path() / target;  // an absolute target stays
  }
}

}  // namespace

// What is open is the temporary, or the device or pipe itself, which is never replaced.
struct AtomicFile::State {
  atomic_file::Place place;
  std::optional<atomic_file::Temporary> temporary;
  Descriptor file{-1};

  const fs::path& written() const { return temporary ? temporary->path() : place.path; }
};

AtomicFile::AtomicFile(const fs::path& path) : state_(new State{.place = find_place(path)}) {
  State& s = *state_;
  static std::atomic<unsigned> count = 0;  // two threads may write the same path
  if (s.place.replaced)
    s.temporary.emplace(fmt::format("{}.{}-{}.tmp", s.place.path.string(), getpid(), count++));
  const int fresh = s.place.replaced ? O_CREAT | O_TRUNC | O_NOFOLLOW : 0;
  s.file = Descriptor(open(s.written().c_str(), O_WRONLY | O_CLOEXEC | fresh, 0666));
  if (s.file.value() < 0)
    fail_with_errno(s.place.path, s.place.replaced ? "create a temporary beside it" : "open");
}

AtomicFile::~AtomicFile() = default;
AtomicFile::AtomicFile(AtomicFile&&) noexcept = default;

void AtomicFile::write(std::span<const std::byte> bytes) {
  write_all(state_->file.value(), bytes, state_->place.path);
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

bool AtomicFile::can_overwrite() const {
  return state_->temporary.has_value();
}

void AtomicFile::overwrite(size_t offset, std::span<const std::byte> bytes) {
  require(can_overwrite(), Failure::usage, "{}: a device or a pipe; a file is wanted",
          state_->place.path.string());
  const int file = state_->file.value();
  const off_t end = lseek(file, 0, SEEK_CUR);
  if (end < 0 || lseek(file, static_cast<off_t>(offset), SEEK_SET) < 0)
    fail_with_errno(state_->place.path, "seek");
  write(bytes);
  if (lseek(file, end, SEEK_SET) < 0) fail_with_errno(state_->place.path, "seek");
}

void AtomicFile::commit() {
  State& s = *state_;
  const fs::path& path = s.place.path;
  if (s.temporary && fsync(s.file.value()) != 0) fail_with_errno(path, "sync");
  if (close(s.file.release()) != 0) fail_with_errno(path, "close");
  if (!s.temporary) return;
  if (rename(s.temporary->path().c_str(), path.c_str()) != 0) fail_with_errno(path, "replace");
  s.temporary->keep();
  sync_folder(path);
}

void write_file_atomically(const fs::path& path,
                           std::span<const std::span<const std::byte>> parts) {
  AtomicFile file(path);
  for (const std::span<const std::byte> part : parts) file.write(part);
  file.commit();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(text))};
  write_file_atomically(path, parts);
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    fail(Failure::usage, "{}: cannot make the folder: {}", path.string(),
         why_no_folder(path, error));
}

std::string why_no_folder(const fs::path& path, const std::error_code& error) {
  fs::path above;
  for (const fs::path& name : path) {
    above /= name;
    std::error_code none;
    if (!fs::is_symlink(above, none)) continue;
    if (const fs::path target = fs::read_symlink(above, none); !fs::exists(above, none))
      return fmt::format("{} is a link to {}, where nothing is", above.string(), target.string());
  }
  return error.message();
}

void write_new_file(const fs::path& path, std::span<const std::byte> bytes) {
  Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.value() < 0) fail_with_errno(path, "create");
  write_all(file.value(), bytes, path);
  if (close(file.release()) != 0) fail_with_errno(path, "close");
}

}  // namespace engine

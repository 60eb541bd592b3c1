#include "tools/train/run_lock.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "tools/cli/terminal.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr char kLock[] = "run.lock";

// runs/<model>-<date>-<time>, with a number behind it if two runs begin within a second.
fs::path default_path(std::string_view model) {
  const std::string name =
      fmt::format("runs/{}-{:%Y%m%d-%H%M%S}", model, fmt::localtime(std::time(nullptr)));
  fs::path path = name;
  for (int i = 2; fs::exists(path); ++i) path = fmt::format("{}-{}", name, i);
  return path;
}

std::string text_about_us() {
  return fmt::format("process {} on {}, since {:%Y-%m-%dT%H:%M:%SZ}\n", getpid(), this_host().name,
                     fmt::gmtime(std::time(nullptr)));
}

[[noreturn]] void refuse(const fs::path& out, const std::error_code& error) {
  fail(Failure::usage, "--out {}: {}", out.string(), why_no_folder(out, error));
}

// What is in the folder beside a lock.
std::vector<fs::path> contents(const fs::path& out, std::error_code& error) {
  std::vector<fs::path> found;
  for (fs::directory_iterator at(out, error), end; !error && at != end; at.increment(error))
    if (at->path().filename() != kLock) found.push_back(at->path());
  return found;
}

bool holds_something(const fs::path& out) {
  std::error_code error;
  const bool holds = !contents(out, error).empty();
  if (error) refuse(out, error);
  return holds;
}

void check_unused(const fs::path& out) {
  require(!holds_something(out), Failure::usage,
          "--out {}: not empty; give another folder, or --resume auto to continue the run in it",
          out.string());
}

void check_held(const FileLock& lock, const fs::path& out) {
  std::string holder = lock.text();
  holder.resize(std::min(holder.find('\n'), holder.size()));
  require(lock.outcome() != FileLock::Outcome::held_by_another, Failure::usage,
          "--out {}: another run is going on in it{}{}", out.string(), holder.empty() ? "" : ": ",
          holder);
  if (lock.outcome() == FileLock::Outcome::not_supported)
    say(paint(fmt::format("--out {}: its file system cannot lock: take care that no other run uses "
                          "the folder",
                          out.string()),
              Colour::yellow, stderr));
}

// A folder that is there and is not ours to fill stays as it is.
void look_before(const fs::path& out, bool resume) {
  std::error_code error;
  const fs::file_status status = fs::status(out, error);
  if (status.type() == fs::file_type::none) refuse(out, error);
  if (!fs::exists(status)) return;
  require(fs::is_directory(status), Failure::usage, "--out {}: not a folder", out.string());
  if (resume || !holds_something(out)) return;
  if (fs::exists(out / kLock))
    check_held(FileLock(out / kLock, text_about_us(), Failure::usage), out);
  check_unused(out);
}

// The folders above and including `out` that are not there, the innermost first.
std::vector<fs::path> missing_folders(const fs::path& out) {
  std::vector<fs::path> missing;
  std::error_code error;
  fs::path folder = fs::absolute(out, error).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // a slash at the end
  for (; !fs::exists(folder, error) && folder.has_relative_path(); folder = folder.parent_path())
    missing.push_back(folder);
  return missing;
}

}  // namespace

RunLock RunLock::take(const fs::path& out, std::string_view model, bool resume) {
  const fs::path path = out.empty() ? default_path(model) : out;
  look_before(path, resume);
  std::vector<fs::path> made = missing_folders(path);
  std::error_code error;
  fs::create_directories(path, error);
  if (error) refuse(path, error);
  FileLock lock(path / kLock, text_about_us(), Failure::usage);
  check_held(lock, path);
  if (!resume) check_unused(path);  // another run may have filled it meanwhile
  RunLock taken(path, std::move(made), std::move(lock));
  taken.kept_ = holds_something(path);
  return taken;
}

RunLock::RunLock(fs::path path, std::vector<fs::path> made, FileLock lock)
    : path_(std::move(path)), made_(std::move(made)), lock_(std::move(lock)) {}

RunLock::RunLock(RunLock&& other) noexcept
    : path_(std::move(other.path_)),
      made_(std::move(other.made_)),
      kept_(std::exchange(other.kept_, true)),
      lock_(std::move(other.lock_)) {}

RunLock::~RunLock() {
  std::error_code ignored;
  if (!kept_)
    for (const fs::path& entry : contents(path_, ignored)) fs::remove_all(entry, ignored);
  lock_.reset();
  if (kept_) return;
  for (const fs::path& folder : made_)
    if (!fs::remove(folder, ignored)) break;  // it is not empty, or gone
}

}  // namespace engine

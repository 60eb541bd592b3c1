// Where a text goes: the file of that name, the file that a link names, or what is no file.
#include "io/files/atomic_file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <future>
#include <iterator>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

namespace fs = std::filesystem;

std::ptrdiff_t entries(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), {});
}

}  // namespace

TEST_CASE("a link stays, and what it names is replaced or made") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "file", link = folder.path() / "link",
                 far = folder.path() / "far", deep = folder.path() / "deep";
  fs::create_directory(deep);
  write_file_atomically(file, "old");
  fs::create_symlink("file", link);
  fs::create_symlink("../link", deep / "again");
  fs::create_symlink("not there yet", far);

  const std::ifstream before(file);  // who reads the old file reads it to its end
  write_file_atomically(deep / "again", "new");
  CHECK(read(file) == "new");
  CHECK(std::string(std::istreambuf_iterator<char>(before.rdbuf()), {}) == "old");
  write_file_atomically(far, "made");
  CHECK(read(folder.path() / "not there yet") == "made");
  for (const fs::path& each : {link, far, deep / "again"}) CHECK(fs::is_symlink(each));
  CHECK(entries(folder.path()) == 5);  // no temporary is left
}

TEST_CASE("a link to itself and a folder are no place for a file") {
  const TemporaryFolder folder;
  fs::create_symlink("loop", folder.path() / "loop");
  for (const fs::path& place : {folder.path() / "loop", folder.path()})
    CHECK(mentions(message_of([&] { write_file_atomically(place, "x"); }, Failure::usage),
                   place.string()));
  CHECK(fs::is_symlink(folder.path() / "loop"));
}

TEST_CASE("a folder that cannot be made says what is in the way") {
  const TemporaryFolder folder;
  write_file_atomically(folder.path() / "file", "x");
  fs::create_symlink("gone", folder.path() / "link");
  fs::create_directory(folder.path() / "there");
  fs::create_symlink("there", folder.path() / "good");
  const auto refusal = [&](const char* name) {
    return message_of([&] { make_folder(folder.path() / name); }, Failure::usage);
  };
  CHECK(mentions(refusal("link"), "link is a link to gone, where nothing is"));
  CHECK(mentions(refusal("good/../link/deep"), "link is a link to gone, where nothing is"));
  CHECK(mentions(refusal("file/deep"), "Not a directory"));
  make_folder(folder.path() / "good" / "deep" / "deeper");
  CHECK(fs::is_directory(folder.path() / "there" / "deep" / "deeper"));
}

TEST_CASE("what is written to a pipe arrives at its reader, and the pipe stays") {
  const TemporaryFolder folder;
  const fs::path pipe = folder.path() / "pipe", link = folder.path() / "link";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  fs::create_symlink("pipe", link);
  for (const fs::path& place : {pipe, link}) {
    std::future<std::string> reader = std::async(std::launch::async, [&] { return read(pipe); });
    write_file_atomically(place, "through");
    CHECK(reader.get() == "through");
    CHECK(fs::is_fifo(pipe));
  }
}

TEST_CASE("a new file takes no other's place") {
  const TemporaryFolder folder;
  const std::span<const std::byte> bytes = std::as_bytes(std::span("abc", 3));
  write_new_file(folder.path() / "new", bytes);
  CHECK(read(folder.path() / "new") == "abc");
  CHECK(mentions(message_of([&] { write_new_file(folder.path() / "new", bytes); }), "create"));
}

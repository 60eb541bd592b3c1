// One folder, one run; a start that fails leaves the user's folders as they were.
#include "tools/train/run_lock.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

namespace fs = std::filesystem;

RunLock take(const fs::path& out, bool resume = false) {
  return RunLock::take(out, "mnist_cnn", resume);
}

std::string refusal(const fs::path& out, bool resume = false) {
  return message_of([&] { take(out, resume); }, Failure::usage);
}

}  // namespace

TEST_CASE("a second run is refused while the first goes on, to begin and to resume, and named") {
  const TemporaryFolder folder;
  {
    RunLock first = take(folder.path());
    first.keep();
    std::ofstream(folder.path() / "args.json") << "{}";
    for (const bool resume : {false, true}) {
      CHECK(mentions(refusal(folder.path(), resume), "another run is going on in it: process"));
      CHECK(mentions(refusal(folder.path(), resume), fmt::format("process {} on ", getpid())));
    }
  }
  CHECK(mentions(refusal(folder.path()), "not empty"));
  CHECK_NOTHROW(take(folder.path(), true));
  CHECK(fs::exists(folder.path() / "args.json"));
  CHECK_FALSE(fs::exists(folder.path() / "run.lock"));
}

TEST_CASE("what a killed run has left of its lock is in nobody's way") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "run.lock") << "process 1 on another host\n";
  CHECK_NOTHROW(take(folder.path()));
}

TEST_CASE("a failed start takes back what it made, and nothing else") {
  const TemporaryFolder folder;
  const fs::path own = folder.path() / "own", link = folder.path() / "link";
  fs::create_directory(own);
  fs::create_directory_symlink("own", link);
  for (const fs::path& out : {own, link, own / ".", folder.path() / "new" / "run" / ""}) {
    CAPTURE(out);
    {
      const RunLock lock = take(out);
      fs::create_directory(out / "weights");
      std::ofstream(out / "weights" / "file") << "x";
    }
    CHECK(fs::is_empty(own));
    CHECK(fs::is_symlink(link));
    CHECK_FALSE(fs::exists(folder.path() / "new"));
  }
  fs::create_directory(folder.path() / "new");  // by someone else, who keeps something there
  {
    const RunLock lock = take(folder.path() / "new" / "a" / "run");
    std::ofstream(folder.path() / "new" / "a" / "other") << "x";
  }
  CHECK(fs::exists(folder.path() / "new" / "a" / "other"));
  CHECK_FALSE(fs::exists(folder.path() / "new" / "a" / "run"));
}

TEST_CASE("a run that is resumed and fails to start loses nothing") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "x";
  { const RunLock lock = take(folder.path(), true); }
  CHECK(fs::exists(folder.path() / "file"));
  { const RunLock lock = take(folder.path() / "new", true); }  // nothing was there to resume
  CHECK_FALSE(fs::exists(folder.path() / "new"));
}

TEST_CASE("no place for a run: a file, below a file, a link to nowhere, a name too long") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "x";
  fs::create_symlink("nowhere", folder.path() / "link");
  fs::create_symlink("loop", folder.path() / "loop");
  for (const std::string& name : {std::string("file"), std::string("file/run"), std::string("link"),
                                  std::string("loop"), std::string(300, 'x')})
    for (const bool resume : {false, true})
      CHECK(mentions(refusal(folder.path() / name, resume), "--out " + folder.path().string()));
  for (const char* name : {"link", "link/deep/run"})
    CHECK(mentions(refusal(folder.path() / name, false),
                   "link is a link to nowhere, where nothing is"));
}

TEST_CASE("without --out the name is made of model, date and time, and is new") {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  {
    const RunLock first = take(""), second = take("");
    CHECK(first.path().string().starts_with("runs/mnist_cnn-20"));
    CHECK(first.path() != second.path());
    CHECK(fs::is_directory(first.path()));
    CHECK(fs::is_directory(second.path()));
  }
  fs::current_path(before);
  CHECK(fs::is_empty(folder.path()));
}

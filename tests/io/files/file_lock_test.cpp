#include "io/files/file_lock.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

namespace fs = std::filesystem;
using Outcome = FileLock::Outcome;

}  // namespace

TEST_CASE("one holder at a time, whom others can name; then the file is gone") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "lock";
  {
    const FileLock first(path, "the first\n");
    CHECK(first.outcome() == Outcome::taken);
    const FileLock second(path, "the second\n");
    CHECK(second.outcome() == Outcome::held_by_another);
    CHECK(second.text() == "the first\n");
  }
  CHECK(fs::is_empty(folder.path()));
  CHECK(FileLock(path, "the third").outcome() == Outcome::taken);
}

TEST_CASE("a lock ends with a process that is killed") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "lock";
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const FileLock lock(path, "the child");
    kill(getpid(), SIGKILL);
  }
  REQUIRE(waitpid(child, nullptr, 0) == child);
  REQUIRE(fs::exists(path));
  const FileLock next(path, "we");
  CHECK(next.outcome() == Outcome::taken);
  CHECK(next.text() == "we");
}

// Holders remove the file when they let go: whoever waits at the old file must not believe it.
TEST_CASE("processes that take and give up a lock at the same time never hold it together") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "lock", mark = folder.path() / "mark";
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(fork());
    REQUIRE(children.back() >= 0);
    if (children.back() != 0) continue;
    for (int taken = 0; taken < 200;) {
      const FileLock lock(path, "x");
      if (lock.outcome() != Outcome::taken) continue;
      if (mkdir(mark.c_str(), 0700) != 0) _exit(1);  // another is inside
      if (rmdir(mark.c_str()) != 0) _exit(1);
      ++taken;
    }
    _exit(0);
  }
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
}

TEST_CASE("a lock that cannot be made is an error of the kind that is asked for") {
  const TemporaryFolder folder;
  CHECK(mentions(message_of([&] { FileLock(folder.path() / "no" / "lock", "", Failure::usage); },
                            Failure::usage),
                 "no/lock: No such file"));
}

// Whichever file call of a save goes wrong, and however it does, what was saved before or what was
// to be saved is there, whole.
#include "tests/tools/train/faults.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>

#include "io/data/pack.h"
#include "io/images/encode.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"
#include "tools/train/checkpoint.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

constexpr int kKilled = 128 + SIGKILL;

using Work = std::function<void(const fs::path&)>;

// The exit code that the program would end with, as a shell has it.
int in_child(const Fault& fault, const fs::path& folder, const Work& work) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 0;
    arm(fault);
    try {
      work(folder);
    } catch (const Error& error) {
      code = static_cast<int>(error.kind);
    } catch (...) {
      code = static_cast<int>(Failure::internal);
    }
    _exit(code);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Does the work once for each of its calls below `path` and each way in which that call can go
// wrong. `saved` says whether the former (false) or the new state (true) is there, whole.
void try_every_fault(const std::string& path, const Work& prepare, const Work& work,
                     const std::function<bool(const fs::path&)>& saved) {
  std::vector<std::string> calls;
  {
    const TemporaryFolder folder;
    prepare(folder.path());
    arm({.path = path});
    work(folder.path());
    calls = calls_seen();
    arm({});
  }
  std::set<std::string> kinds;
  for (const std::string& call : calls) kinds.insert(call.substr(0, call.find(' ')));
  for (const char* needed : {"open", "fsync", "rename", "close"}) CHECK(kinds.contains(needed));
  const Fault ways[] = {{FaultKind::once, EIO},       {FaultKind::lasting, EIO},
                        {FaultKind::lasting, ENOSPC}, {FaultKind::lasting, EROFS},
                        {FaultKind::short_write},     {FaultKind::kill}};
  for (Fault fault : ways)
    for (fault.at = 0; fault.at < static_cast<int>(calls.size()); ++fault.at) {
      const std::string& call = calls[fault.at];
      CAPTURE(static_cast<int>(fault.kind));
      CAPTURE(fault.error);
      CAPTURE(call);
      fault.path = path;
      const TemporaryFolder folder;
      prepare(folder.path());
      const int code = in_child(fault, folder.path(), work);
      const bool done = saved(folder.path());
      if (code == 0) CHECK(done);
      if (fault.kind == FaultKind::kill) CHECK(code == kKilled);
      if (fault.kind == FaultKind::short_write) CHECK(code == 0);
      const bool cleaning =
          call.starts_with("remove") || call.starts_with("unlink") || call.starts_with("close");
      if (fault.error != 0 && !cleaning)  // memory: no room for a pack
        CHECK(
            (code == static_cast<int>(Failure::data) || code == static_cast<int>(Failure::memory)));
    }
}

Checkpoint checkpoint(int64_t step) {
  Checkpoint c;
  c.at.step = step;
  for (const char* name : {"a", "b"}) {
    Tensor tensor(DType::f32, {100});
    std::ranges::fill(tensor.as<float>(), static_cast<float>(step));
    c.model[name] = std::move(tensor);
  }
  return c;
}

void save(const fs::path& run, int64_t step) {
  CheckpointFolder(run, 1).write(checkpoint(step), state_digest(checkpoint(step)));
}

int64_t newest_step(const fs::path& run) {
  std::vector<std::string> said;
  const auto found =
      CheckpointFolder(run, 1).newest([&](const std::string& line) { said.push_back(line); });
  CHECK(said.empty());  // none is damaged
  return found ? found->at.step : 0;
}

}  // namespace

TEST_CASE("a checkpoint stands whatever call of a save fails, writes less, or is the last") {
  for (const int64_t before : {0, 1}) {  // the first save of all, and one with a checkpoint to lose
    CAPTURE(before);
    try_every_fault(
        "/ckpt",
        [&](const fs::path& run) {
          if (before > 0) save(run, before);
        },
        [](const fs::path& run) { save(run, 2); },
        [&](const fs::path& run) {
          CheckpointFolder(run, 1).remove_leftovers();
          const int64_t step = newest_step(run);
          CHECK((step == before || step == 2));
          save(run, 3);
          CHECK(newest_step(run) == 3);
          CHECK(std::distance(fs::directory_iterator(run / "ckpt"), {}) == 1);
          return step == 2;
        });
  }
}

TEST_CASE("a pack is whole or not there whatever call of its writing fails, or is the last") {
  Image image(16, 16, 3);
  const Work write = [&](const fs::path& folder) {
    for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i);
    const std::vector<PackSource> sources = {{(folder / "picture.png").string()}};
    open_or_build_pack(folder / "cache" / "one.pack", sources, {}, {.parallel = {.threads = 1}});
  };
  try_every_fault(
      "/cache/one.pack",
      [&](const fs::path& folder) {
        const auto bytes = encode_png(image);
        std::ofstream(folder / "picture.png", std::ios::binary)
            .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
      },
      write,
      [&](const fs::path& folder) {
        const bool there = fs::exists(folder / "cache" / "one.pack");
        if (there) CHECK(open_pack(folder / "cache" / "one.pack")->image(0).has_value());
        write(folder);
        CHECK(open_pack(folder / "cache" / "one.pack")->image(0).has_value());
        return there;
      });
}

// What the program ends with; `fault` as its environment has it.
int train(const fs::path& folder, const std::string& out, const Fault* fault) {
  std::string preload;
  if (fault)
    preload = fmt::format(
        "exec env ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD={} ENGINE_FAULT='{} {} {} {}' ",
        ENGINE_FAULTS, static_cast<int>(fault->kind), fault->error, fault->at, fault->path);
  const std::string shell = fmt::format(
      "{}{} train --data {}/set --out {}/{} --resume auto --model mnist_cnn --batch-size 8 "
      "--epochs 1 --checkpoint-every 2 --device cpu --threads 1 --cache none 2>{}/err",
      preload, ENGINE_PROGRAM, folder.string(), folder.string(), out, folder.string());
  const int status = std::system(shell.c_str());
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

TEST_CASE("a training whose disk fills up, or is read-only, fails; resumed, it ends as ever") {
  const TemporaryFolder folder;
  REQUIRE(std::system(fmt::format("{} draw digits --out {}/set --train 3 --val 1 2>/dev/null",
                                  ENGINE_PROGRAM, folder.path().string())
                          .c_str()) == 0);
  REQUIRE(train(folder.path(), "calm", nullptr) == 0);
  const std::string calm = last_state(folder.path() / "calm");
  REQUIRE(!calm.empty());
  const Fault faults[] = {
      {FaultKind::lasting, ENOSPC, 20, "/ckpt"},    {FaultKind::lasting, EROFS, 0, "/ckpt"},
      {FaultKind::once, EIO, 60, "/ckpt"},          {FaultKind::kill, 0, 70, "/ckpt"},
      {FaultKind::lasting, ENOSPC, 3, "/weights/"}, {FaultKind::lasting, EROFS, 0, "/weights/"},
      {FaultKind::kill, 0, 2, "/weights/"}};
  for (size_t i = 0; i < std::size(faults); ++i) {
    CAPTURE(i);
    const std::string out = fmt::format("run{}", i);
    const bool killed = faults[i].kind == FaultKind::kill;
    CHECK(train(folder.path(), out, &faults[i]) ==
          (killed ? kKilled : static_cast<int>(Failure::data)));
    CHECK(train(folder.path(), out, nullptr) == 0);
    CHECK(last_state(folder.path() / out) == calm);
  }
}

TEST_CASE("a training that gets too few threads says so before it begins") {
  const TemporaryFolder folder;
  REQUIRE(std::system(fmt::format("{} draw digits --out {}/set --train 3 --val 1 2>/dev/null",
                                  ENGINE_PROGRAM, folder.path().string())
                          .c_str()) == 0);
  const Fault fault{FaultKind::lasting, EAGAIN, 3, kThreads};
  CHECK(train(folder.path(), "run", &fault) == static_cast<int>(Failure::memory));
  CHECK(mentions(read(folder.path() / "err"), "only 3 of "));
  CHECK_FALSE(fs::exists(folder.path() / "run"));
}

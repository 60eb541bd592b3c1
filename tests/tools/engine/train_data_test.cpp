// engine train where caches, images or disks fail, and with any number of loading threads.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

void flip_byte(const fs::path& file, std::streamoff at) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(at);
  const char value = static_cast<char>(stream.get() ^ 1);
  stream.seekp(at);
  stream.put(value);
}

}  // namespace

TEST_CASE(
    "a cache that is damaged is made anew and the log says why; the run ends with the same bits") {
  const Drawn drawn(4, 1);
  const auto train = [&](const char* name) {
    const Outcome outcome = engine_cli(
        fmt::format("train --data {} --model mnist_cnn --image-size 12 --batch-size 8 --epochs 1 "
                    "--device cpu --threads 1 --cache disk --cache-dir {} --out {}",
                    drawn.set.string(), drawn.path("cache"), drawn.path(name)));
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return outcome.err;
  };
  train("calm");
  fs::path pack;
  for (const auto& entry : fs::directory_iterator(drawn.path("cache")))
    if (entry.path().extension() == ".pack") pack = entry.path();
  const std::string calm = last_state(drawn.path("calm")), whole = read(pack);
  const auto check_said = [&](const char* name, const std::string& why) {
    CAPTURE(name);
    const std::string said = train(name);
    CHECK(mentions(said, pack.string() + ": " + why));
    CHECK(last_state(drawn.path(name)) == calm);
    return said;
  };
  const auto cache_event = [&](const char* name) {
    std::ifstream lines(fs::path(drawn.path(name)) / "metrics.jsonl");
    for (std::string line; std::getline(lines, line);)
      if (const json event = parse_json<json>(line); event["event"] == "cache")
        return event["reason"].get<std::string>();
    return std::string();
  };
  fs::resize_file(pack, whole.size() - 1000);
  check_said("truncated", fmt::format("a truncated pack, {} of {} bytes; making it anew",
                                      whole.size() - 1000, whole.size()));
  CHECK(mentions(cache_event("truncated"), "a truncated pack"));
  CHECK(fs::file_size(pack) == whole.size());
  flip_byte(pack, 20);
  check_said("header", "the pack's header is damaged; making it anew");
  flip_byte(pack, std::streamoff(whole.size()) - 10);
  check_said("index", "the pack's index is damaged; making it anew");
  flip_byte(pack, 4096 + 100);
  check_said("pixels", "of 50 pictures 1 are damaged (checksum), the first ");
  CHECK(mentions(read(fs::path(drawn.path("pixels")) / "log.txt"), "are damaged (checksum)"));
  CHECK_FALSE(fs::exists(pack));
  CHECK_FALSE(mentions(train("after"), "damaged"));
  CHECK(fs::file_size(pack) == whole.size());
}

TEST_CASE(
    "a training ends with the same bits for any number of loading threads, cold or warm cache") {
  const Drawn drawn(4, 1);
  std::string expected;
  for (const char* cache : {"disk", "ram"})
    for (int workers : {1, 2, 8}) {
      CAPTURE(cache);
      CAPTURE(workers);
      const bool warm = cache == std::string("disk") && workers > 1;
      const fs::path out = drawn.folder.path() / fmt::format("{}{}", cache, workers);
      const Outcome outcome = engine_cli(
          fmt::format("train --data {} --model mnist_cnn --image-size 12 --batch-size 8 "
                      "--epochs 2 --device cpu "
                      "--threads 1 --workers {} --aug strong --randaugment 2,9 --mixup 0.4 "
                      "--cutmix 1 --cache {} "
                      "--cache-dir {} --out {}",
                      drawn.set.string(), workers, cache, drawn.path("cache"), out.string()));
      REQUIRE(outcome.code == 0);
      CHECK(mentions(outcome.err, ".pack is there") == warm);
      const std::string state = last_state(out);
      CHECK(state.size() == 64);
      if (expected.empty()) expected = state;
      CHECK(state == expected);
    }
}

TEST_CASE(
    "images that change during a run: an error that names the file, or a word when it is resumed") {
  const Drawn drawn(4, 1);
  const fs::path changed = drawn.image("train", "ring", 1);
  const std::string original = read(changed);
  for (const char* cache : {"none", "ram"}) {
    CAPTURE(cache);
    const fs::path out = drawn.path(cache);
    const auto train = [&](int epochs, const char* more = "") {
      return engine_cli(
          fmt::format("train --data {} --model mnist_cnn --image-size 12 --batch-size 8 "
                      "--epochs {} --device cpu --cache {} --out {} --resume auto {}",
                      drawn.set.string(), epochs, cache, out.string(), more));
    };
    write_text(changed, original);
    REQUIRE(train(1).code == 0);
    CHECK_FALSE(mentions(train(2).err, "images have changed"));
    write_text(changed, original.substr(0, original.size() / 3));
    const std::string state = last_state(out);
    check_fails(train(3), 3, changed.string());
    CHECK(last_state(out) == state);
    const Outcome skipped = train(3, "--on-bad-image skip");
    CHECK(skipped.code == 0);
    CHECK(mentions(skipped.err, state.substr(0, 12)));  // it went on from there
    CHECK(mentions(skipped.err, "images have changed since the checkpoint was saved"));
    CHECK(mentions(read(out / "log.txt"), "images have changed"));
  }
}

TEST_CASE(
    "a full disk: the error says where, and the former pack and checkpoint are as they were") {
  const Drawn drawn(4, 1);
  const fs::path mount = drawn.path("mount");
  fs::create_directory(mount);
  // Everything happens on a small file system that only one shell and its children see.
  const auto on_small_disk = [&](const char* size, const std::string& script) {
    const fs::path file = drawn.path("script"), log = drawn.path("log");
    write_text(file,
               fmt::format("mount -t tmpfs -o size={} tmpfs '{}' || exit 77\n"
                           "E='{}'; M='{}'; S='{}'\n"
                           "train() {{ \"$E\" train --data \"$S\" --model mnist_cnn --image-size "
                           "28 --batch-size 8 --device cpu --threads 1 \"$@\"; }}\n{}",
                           size, mount.string(), ENGINE_PROGRAM, mount.string(), drawn.set.string(),
                           script));
    const int status = std::system(
        fmt::format("unshare -rm sh '{}' >'{}' 2>&1", file.string(), log.string()).c_str());
    return std::pair(WEXITSTATUS(status), read(log));
  };
  if (std::system("unshare -rm sh -c 'mount -t tmpfs tmpfs /tmp' >/dev/null 2>&1") != 0)
    return note_skipped("no file systems of our own here");

  // 50 pictures of 832 bytes and their index: one pack fits, no second one beside it.
  const auto [pack_code, pack_log] = on_small_disk("100k", R"(
    train --epochs 1 --cache disk --cache-dir "$M" --out "$S/../first" || exit 1
    sha256sum "$M"/*.pack
    cp "$S"/train/ring/00001.* "$S"/train/ring/new.png
    train --epochs 1 --cache disk --cache-dir "$M" --out "$S/../second"; echo "code $?"
    rm "$S"/train/ring/new.png; ls "$M"; sha256sum "$M"/*.pack)");
  INFO(pack_log);
  CHECK(pack_code == 0);
  CHECK(mentions(pack_log, "code 6"));
  CHECK(mentions(pack_log, "cannot write the pack beyond "));
  CHECK(mentions(pack_log, "bytes: No space left on device"));
  CHECK_FALSE(mentions(pack_log, ".pack.tmp\n"));
  const size_t first = pack_log.find(".pack\n"), last = pack_log.rfind(".pack\n");
  const auto sum_before = [&](size_t at) {
    const size_t line = pack_log.rfind('\n', at);
    return pack_log.substr(line + 1, 64);
  };
  REQUIRE(first < last);
  CHECK(sum_before(first) == sum_before(last));
  CHECK_FALSE(fs::exists(drawn.path("second")));

  // One checkpoint takes 14 MB, best and last weights 5 each: the second checkpoint does not fit.
  const auto [save_code, save_log] = on_small_disk("34m", R"(
    train --epochs 4 --cache none --out "$M/run"; echo "code $?"
    ls "$M/run/ckpt"
    mount -o remount,size=200m "$M"
    train --epochs 4 --cache none --out "$M/run" --resume auto || exit 1
    train --epochs 4 --cache none --out "$M/calm" || exit 1
    for run in run calm; do
      grep -h '"checkpoint"' "$M/$run/metrics.jsonl" | tail -1 | grep -o 'sha256":"[0-9a-f]*'
    done)");
  INFO(save_log);
  CHECK(save_code == 0);
  CHECK(mentions(save_log, "code 3"));
  CHECK(mentions(save_log, "more bytes: No space left on device; the former checkpoint "));
  CHECK(mentions(save_log, "step_00000005.safetensors is intact"));
  const size_t at = save_log.rfind("sha256\":\""), before = save_log.rfind("sha256\":\"", at - 1);
  CHECK(save_log.substr(at, 73) == save_log.substr(before, 73));
}

// Verbs that read images, as users see them: show-batch, bench data, eval, and train where data or disks fail.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "io/data/loader.h"
#include "io/data/mix.h"
#include "io/data/sample.h"
#include "io/files/csv.h"
#include "io/images/contact_sheet.h"
#include "io/images/decode.h"
#include "io/images/draw.h"
#include "io/images/encode.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"
#include "tools/data/augment_options.h"
#include "tools/data/data_options.h"
#include "tools/data/preprocess_options.h"
#include "tools/machine/environment.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::string read(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// `before`: what stands before the program on the command line.
Outcome run(const std::string& arguments, const std::string& before = "") {
  const TemporaryFolder folder;
  const std::string out = folder.path() / "out", err = folder.path() / "err";
  const int status = std::system(
      fmt::format("{} {} {} >{} 2>{}", before, ENGINE_PROGRAM, arguments, out, err).c_str());
  return {WEXITSTATUS(status), read(out), read(err)};
}

void check_fails(const Outcome& outcome, int code, const std::string& why) {
  CHECK(outcome.code == code);
  CHECK(mentions(outcome.err, why));
  CHECK(outcome.out.empty());
}

// Images of ten classes: train/ and val/.
struct Drawn {
  TemporaryFolder folder;
  fs::path set = folder.path() / "set";
  explicit Drawn(int train = 3, int validation = 1) {
    draw_dataset(set, DrawnSet::objects,
                 {.train_per_class = train, .validation_per_class = validation, .size = 48});
  }
  std::string path(const char* name) const { return folder.path() / name; }
  fs::path image(const char* part, const char* name, int i) const {
    return list_images(set / part / name).at(size_t(i));
  }
};

Image part_of(const Image& sheet, int left, int top, int side) {
  Image part(side, side, 3);
  for (int y = 0; y < side; ++y)
    std::copy_n(sheet.row(top + y) + size_t(left) * 3, size_t(side) * 3, part.row(y));
  return part;
}

void write_text(const fs::path& file, std::string_view text) {
  std::ofstream(file, std::ios::binary) << text;
}

void flip_byte(const fs::path& file, std::streamoff at) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(at);
  const char value = static_cast<char>(stream.get() ^ 1);
  stream.seekp(at);
  stream.put(value);
}

std::string last_state(const fs::path& run) {
  std::string state;
  std::ifstream lines(run / "metrics.jsonl");
  for (std::string line; std::getline(lines, line);)
    if (const json event = json::parse(line); event["event"] == "checkpoint")
      state = event["state_sha256"];
  return state;
}

}  // namespace

TEST_CASE("show-batch: the sheet holds the batch of the loader, its labels and its mixtures") {
  const Drawn drawn;
  const fs::path sheet_file = drawn.path("sheet.png");
  constexpr int kSide = 32, kCount = 7, kColumns = 3;
  for (const bool mixed : {false, true}) {
    CAPTURE(mixed);
    const Outcome outcome = run(fmt::format(
        "show-batch --data {} --cache ram --model mobilenet_v2 --image-size {} --count {} "
        "--columns {} --epoch 2 --step 1 --seed 5 --threads 3 --aug standard --randaugment 2,9 {} "
        "--out {}",
        drawn.set.string(), kSide, kCount, kColumns, mixed ? "--mixup 0.8 --cutmix 1" : "",
        sheet_file.string()));
    REQUIRE(outcome.code == 0);
    CHECK(outcome.out.empty());
    CHECK(mentions(outcome.err, "sheet.png: 7 images of epoch 2, step 1"));

    DataOptions options;
    options.data = drawn.set;
    options.cache = CacheKind::ram;
    TrainingData data = load_training_data(options);
    AugmentOptions flags;
    flags.augment = Augment::standard;
    flags.randaugment = "2,9";
    if (mixed) flags.mixup = 0.8f, flags.cutmix = 1.f;
    const AugmentConfig augment = augment_config(flags);
    const Preprocess preprocess = choose_preprocess("mobilenet_v2", std::nullopt, {}, kSide);
    open_cache(data, options, preprocess, {});
    Loader loader(data.train, training_input(data.train, preprocess, augment, false),
                  {.width = kSide, .height = kSide, .batch = kCount, .seed = 5});
    loader.start(2, 1);
    const Batch& batch = *loader.next();
    std::vector<Image> pictures;
    std::vector<std::string> names;
    for (int i = 0; i < kCount; ++i) {
      Image& picture = pictures.emplace_back(kSide, kSide, 3);
      std::copy_n(batch.images + size_t(i) * picture.pixels.size(), picture.pixels.size(),
                  picture.pixels.data());
      names.push_back(fs::path(data.train.samples[batch.indices[size_t(i)]].path)
                          .parent_path()
                          .filename()
                          .string());
    }
    const auto mixes =
        sample_mixes(augment.mixing, {.seed = 5, .epoch = 2, .position = uint32_t(kCount)}, kCount,
                   kSide, kSide);
    std::vector<Image> shown = pictures;
    std::vector<std::string> texts = names;
    for (int i = 0; i < kCount && mixed; ++i) {
      const Mix& mix = mixes[size_t(i)];
      REQUIRE(mix.share < 1);
      const Image& partner = pictures[size_t(mix.partner)];
      const bool cut = mix.right > mix.left && mix.bottom > mix.top;
      for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide * 3; ++x) {
          uint8_t& value = shown[size_t(i)].row(y)[x];
          const uint8_t other = partner.row(y)[x];
          const bool inside =
              y >= mix.top && y < mix.bottom && x >= 3 * mix.left && x < 3 * mix.right;
          if (cut)
            value = inside ? other : value;
          else
            value = uint8_t(std::lround(mix.share * float(value) + (1 - mix.share) * other));
        }
      texts[size_t(i)] = fmt::format("{:.2f} {}\n{:.2f} {}", mix.share, names[size_t(i)],
                                     1 - mix.share, names[size_t(mix.partner)]);
    }
    const Image sheet = read_image(sheet_file, 3);
    CHECK(sheet.width == 4 + kColumns * (kSide + 4));
    const int line = mixed ? 2 * 16 : 16;
    CHECK(sheet.height == 4 + 3 * (kSide + line + 4));
    for (int i = 0; i < kCount; ++i) {
      const int left = 4 + i % kColumns * (kSide + 4), top = 4 + i / kColumns * (kSide + line + 4);
      CHECK(same_pixels(part_of(sheet, left, top, kSide), shown[size_t(i)]));
    }
    CHECK(same_pixels(sheet, contact_sheet(shown, texts, shared_file("DejaVuSans.ttf"),
                                           kColumns)));  // with the texts
  }
}

TEST_CASE("show-batch: what cannot be shown") {
  const Drawn drawn;
  const std::string start = fmt::format("show-batch --data {} --cache none --out {} ",
                                        drawn.set.string(), drawn.path("sheet.png"));
  check_fails(run(start + "--count 16 --step 2"), 2, "--step 2: the epoch has 2 of 16 images");
  check_fails(run(start + "--model efficientnet_b9"), 2, "efficientnet_b9");
  check_fails(run(start + "--aug strogn"), 2, "--aug");
  CHECK_FALSE(fs::exists(drawn.path("sheet.png")));
  check_fails(run(start + "--out /nonexistent/x.png"), 3, "/nonexistent/x.png");
  check_fails(run("show-batch --data /nonexistent"), 3, "/nonexistent: no such folder");
  const fs::path bad = drawn.image("train", "disk", 0);
  fs::resize_file(bad, 60);
  check_fails(run(start + "--count 30"), 3, bad.string());
  const Outcome skipped = run(start + "--count 30 --on-bad-image skip");
  CHECK(skipped.code == 0);
  CHECK(mentions(skipped.err, "skipped " + bad.string()));
}

TEST_CASE("bench data: every step, cache, number of threads and strategy has a row") {
  const Drawn drawn(2, 1);
  const std::string csv_file = drawn.path("bench.csv");
  const std::string start = fmt::format(
      "bench data --data {} --model mnist_cnn --device cpu --cache-dir {} --images 4 --passes 1 "
      "--seconds 0.05 --batch-size 4 ",
      drawn.set.string(), drawn.path("cache"));
  const Outcome outcome = run(start + "--counts 1,3 --loaders 2 --need 1e9 --out " + csv_file);
  REQUIRE(outcome.code == 0);
  CHECK(mentions(outcome.out, "images/s/core"));
  for (const char* kind : {"none", "disk", "ram"})
    CHECK(mentions(outcome.out, fmt::format("cores with cache {}; this process has", kind)));

  const Csv csv = read_csv(csv_file);
  CHECK(csv.header == std::vector<std::string>{"group", "what", "cache", "threads",
                                               "images_per_second", "images_per_second_per_core",
                                               "need"});
  std::set<std::string> rows;
  for (const CsvRow& row : csv.rows) {
    const auto& f = row.fields;
    rows.insert(fmt::format("{}, {}, {}, {}", f[0], f[1], f[2], f[0] == "strategy" ? "" : f[3]));
    CHECK(std::stod(f[4]) > 0);
    CHECK(std::stod(f[5]) > 0);
    CHECK(std::stod(f[6]) == 1e9);
  }
  const std::set<std::string> expected = {
      "step, read, none, 1",
      "step, decode, none, 1",
      "step, resize, none, 1",
      "step, augment, none, 1",
      "step, file to crop, none, 1",
      "step, file to crop, fast decode, none, 1",
      "step, pack to crop, ram, 1",
      "loader, epochs, none, 1",
      "loader, epochs, none, 3",
      "loader, epochs, disk, 1",
      "loader, epochs, disk, 3",
      "loader, epochs, ram, 1",
      "loader, epochs, ram, 3",
      "strategy, one thread, none, ",
      "strategy, one loader per GPU, none, ",
      "strategy, manual split, none, ",
      "strategy, our pool, none, ",
  };
  CHECK(rows == expected);
  CHECK(csv.rows.size() == expected.size());

  const Outcome measured = run(start + "--steps-only --measure-need --json");
  REQUIRE(measured.code == 0);
  CHECK(mentions(measured.err, "mnist_cnn trains "));
  const json said = json::parse(measured.out);
  CHECK(said["need"] > 0.);
  CHECK(said["cores"] >= 1);
  CHECK(said["rows"].size() == 7);
  CHECK(said["rows"][1]["what"] == "decode");

  if (!has_python_module("matplotlib")) return note_skipped("the plot needs matplotlib");
  const std::string plot = fmt::format(
      "/usr/bin/python3 -B -W error '{}/tools/plots/bench_data.py' ", ENGINE_SOURCE_DIR);
  const fs::path picture = drawn.path("bench.png"), log = drawn.path("log");
  CHECK(std::system(
            fmt::format("{} {} {} 2>{}", plot, csv_file, picture.string(), log.string()).c_str()) ==
        0);
  INFO(read(log));
  CHECK(read_image(picture, 3).width > 1000);
  CHECK(std::system(
            fmt::format("{} {} x.png 2>{}", plot, picture.string(), log.string()).c_str()) != 0);
  CHECK(mentions(read(log), "no file of engine bench data"));
  CHECK_FALSE(mentions(read(log), "Traceback"));
}

TEST_CASE("bench data: wrong lists, data without files, a result that cannot be written") {
  const Drawn drawn(1, 1);
  const std::string start = fmt::format(
      "bench data --data {} --model mnist_cnn --device cpu --images 2 --passes 1 --steps-only ",
      drawn.set.string());
  check_fails(run(start + "--caches none,disc"), 2, "--caches 'none,disc'");
  check_fails(run(start + "--caches none,none"), 2, "each once");
  check_fails(run(start + "--cache ram"), 2, "--caches names the kinds");
  for (const char* list : {"0", "1;2", "2000"})
    check_fails(run(start + fmt::format("--counts '{}'", list)), 2, "--counts '");
  check_fails(run("bench data"), 2, "--data is missing");
  const Outcome unwritable = run(start + "--out /nonexistent/x.csv");
  CHECK(unwritable.code == 3);
  CHECK(mentions(unwritable.err, "/nonexistent/x.csv"));
  if (const auto shared = test_data(); shared && fs::exists(*shared / "mnist"))
    check_fails(run(fmt::format("bench data --data {} --model mnist_cnn --device cpu",
                                (*shared / "mnist").string())),
                2, "the images are no files");
}

TEST_CASE("eval takes the data that train takes, and scores a run's own parts again") {
  const Drawn drawn(6, 1);
  const fs::path out = drawn.path("run"), train = drawn.set / "train", again = drawn.path("again");
  fs::copy_file(drawn.image("train", "ring", 1), train / "ring/copy.png");
  const std::string flags =
      fmt::format("--data {} --device cpu --threads 1 --batch-size 7 --cache-dir {} ",
                  train.string(), drawn.path("cache"));
  // Of 6 images 3, 1 and 2; of ring's 7 there are 4, 1 and 2.
  REQUIRE(run(fmt::format("train {} --model mnist_cnn --epochs 1 --image-size 28 --cache disk "
                          "--split 0.5/0.2/0.3 --stratify --split-seed 2 --out {}",
                          flags, out.string()))
              .code == 0);
  const std::string eval = fmt::format(
      "eval {} --weights {}/weights/best.safetensors --resamples 0 ", flags, out.string());
  const auto predictions = [&](const std::string& more) {
    const Outcome outcome = run(eval + more + " --out " + again.string());
    INFO(outcome.err);
    CHECK(outcome.code == 0);
    return read(again / "predictions.csv");
  };
  const std::string from_file = "--split-file " + (out / "split.csv").string();
  const std::string drawn_again = "--split 0.5/0.2/0.3 --stratify --split-seed 2";
  for (const std::string& split : {from_file, drawn_again})
    for (const char* cache : {"none", "disk"}) {
      CAPTURE(split);
      CHECK(predictions(fmt::format("{} --part test --cache {}", split, cache)) ==
            read(out / "test_predictions.csv"));
      CHECK(predictions(fmt::format("{} --cache {}", split, cache)) ==
            read(out / "predictions.csv"));
    }
  const auto images = [&](const std::string& more) {
    const Outcome outcome = run(eval + more + " --json");
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return json::parse(outcome.out)["samples"].get<int>();
  };
  CHECK(images("") == 61);  // all of a plain folder
  CHECK(images("--part val " + from_file) == 10);
  CHECK(images("--part train " + from_file) == 31);

  SUBCASE("labels, with and without parts") {
    const fs::path file = drawn.path("labels.csv");
    const std::string labels = fmt::format(
        "eval --labels {} --device cpu --weights {}/weights/best.safetensors "
        "--resamples 0 --json ",
        file.string(), out.string());
    const std::string a = drawn.image("train", "disk", 0), b = drawn.image("train", "star", 0),
                      c = drawn.image("train", "star", 1);
    const auto count = [&](const std::string& more) {
      return json::parse(run(labels + more).out)["samples"].get<int>();
    };
    write_text(file,
               fmt::format("path,label,split\n{},disk,test\n{},star,val\n{},star,val\n", a, b, c));
    CHECK(count("") == 2);
    CHECK(count("--part test") == 1);
    check_fails(run(labels + "--part train"), 3, "none of 3 images is in the part train");
    write_text(file, fmt::format("path,label\n{},disk\n{},star\n", a, b));
    CHECK(count("") == 2);
    check_fails(run(labels + "--part val"), 2, "no column split");
    write_text(file, fmt::format("path,label\n{},disk\n{},hexagon\n", a, b));
    check_fails(run(labels), 3,
                "labels.csv, line 3: class \"hexagon\" is not one of the 10 classes trained on");
    write_text(file, fmt::format("path,label\n{},disk\n{}.png,star\n", a, b));
    check_fails(run(labels), 3, "labels.csv, line 3: no file");
    write_text(file, fmt::format("path,label\n{0},disk\n{0},disk\n", a));
    check_fails(run(labels), 3, "line 3: " + a + " is in line 2 already");
  }
  SUBCASE("images to train with among those to score") {
    fs::copy_file(drawn.image("train", "star", 0), drawn.set / "val/star/leak.png");
    const std::string whole = fmt::format(
        "eval --data {} --device cpu --resamples 0 --weights {}/weights/best.safetensors ",
        drawn.set.string(), out.string());
    const Outcome leak = run(whole + "--out " + again.string());
    CHECK(leak.code == 0);
    CHECK(mentions(leak.err, "1 image is in several parts, the first in train as"));
    CHECK(read_csv(again / "duplicates.csv").rows.size() == 2);
    CHECK_FALSE(mentions(run(whole + "--no-duplicate-check").err, "several parts"));
  }
  SUBCASE("an image that cannot be read") {
    const fs::path bad = drawn.image("train", "ring", 2);
    fs::resize_file(bad, 50);
    check_fails(run(eval), 3, bad.string());
    CHECK(images("--on-bad-image skip") == 60);
    CHECK(mentions(run(eval + "--on-bad-image skip").err, "skipped " + bad.string()));
  }
}

TEST_CASE(
    "a cache that is damaged is made anew and the log says why; the run ends with the same bits") {
  const Drawn drawn(4, 1);
  const auto train = [&](const char* name) {
    const Outcome outcome = run(
        fmt::format("train --data {} --model mnist_cnn --image-size 28 --batch-size 8 --epochs 1 "
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
      if (const json event = json::parse(line); event["event"] == "cache")
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
      const Outcome outcome =
          run(fmt::format("train --data {} --model mnist_cnn --image-size 28 --batch-size 8 "
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
      return run(
          fmt::format("train --data {} --model mnist_cnn --image-size 28 --batch-size 8 "
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
    CHECK(mentions(skipped.err, state));  // it went on from there
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
    for run in run calm; do grep -h '"checkpoint"' "$M/$run/metrics.jsonl" | tail -1 | grep -o 'sha256":"[0-9a-f]*'; done)");
  INFO(save_log);
  CHECK(save_code == 0);
  CHECK(mentions(save_log, "code 3"));
  CHECK(mentions(save_log, "more bytes: No space left on device; the former checkpoint "));
  CHECK(mentions(save_log, "step_00000005.safetensors is intact"));
  const size_t at = save_log.rfind("sha256\":\""), before = save_log.rfind("sha256\":\"", at - 1);
  CHECK(save_log.substr(at, 73) == save_log.substr(before, 73));
}
